"""The card of a store, in Markdown: what it is, whose it is, how it was made, how good it is, what it doesn't bear.

Everything but what people know stands in the store. The same store and card give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ecgstore.build.patients import patients_in_words
from ecgstore.errors import REASONS, visible
from ecgstore.look.facts import facts, filter_words
from ecgstore.storage.beside import CardSettings
from ecgstore.storage.store import Store

#: Codes of one coding system that are listed; all stand in the store.
MOST_CODES = 40
#: What is told of quality: column, title, unit.
_QUALITY = (
    ("hf_noise_mv", "noise between the beats", "mV"),
    ("mains_mv", "mains", "mV"),
    ("baseline_mv", "baseline wander", "mV"),
    ("range_mv", "range", "mV"),
    ("flat_fraction", "flat", "share"),
    ("clipped_fraction", "clipped", "share"),
    ("missing_fraction", "not recorded", "share"),
)
#: What Markdown or HTML would take for a sign of its own.
_SIGNS = re.compile(r"[\\`*_{}\[\]<>|~&#!$]")
_AT_BEGIN = re.compile(r"^([-+=]|\d+(?=[.)]))")


def plain(value: object) -> str:
    """Text that came from somewhere as it may stand in a line of Markdown: in it nothing is a sign."""
    return _SIGNS.sub(lambda found: f"\\{found[0]}", visible(" ".join(str(value).split())))


def sentence(value: object) -> str:
    """The same where a line begins with it."""
    return _AT_BEGIN.sub(_escaped_begin, plain(value))


def _escaped_begin(found: re.Match[str]) -> str:
    return f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}"


def card(store: Store, said: CardSettings | None = None) -> str:
    """The card of ``store``; ``said`` is what people know of it."""
    about = facts(store)
    parts = [
        [f"# {plain(said.title if said else Path(store.path.rstrip('/')).name)}", "", *_words(said)],
        ["## What it is", "", *_table(_what(store, about))],
        ["## Terms", "", *_terms(about, said)],
        ["## How it was made", "", *_made(about)],
        ["## Who is in it", "", *_who(store, about)],
        ["## Statements", "", *_statements(store, about)],
        ["## Quality", "", *_quality(store, about)],
        ["## What was left out", "", *_left_out(about)],
        ["## Limits", "", *_limits(store, about, said)],
        ["## How to read it", "", *_how(store)],
    ]
    return "\n\n".join("\n".join(lines).rstrip() for lines in parts) + "\n"


def _words(said: CardSettings | None) -> list[str]:
    if said is None or said.description is None:
        return ["A sealed store of electrocardiograms (ECG)."]
    paragraphs = re.split(r"\n\s*\n", said.description)
    return "\n\n".join(sentence(one) for one in paragraphs if one.strip()).split("\n")


def _table(rows: Iterable[tuple[str, object]], head: tuple[str, str] = ("what", "value")) -> list[str]:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return [*lines, *(f"| {plain(name)} | {value} |" for name, value in rows)]


def _what(store: Store, about: dict[str, Any]) -> list[tuple[str, object]]:
    step = about["lineage"][-1] if about["lineage"] else None
    parents = [*(step["parents"] if step else []), *([about["parent"]] if about["parent"] else [])]
    rows: list[tuple[str, object]] = [
        ("fingerprint", f"`{about['fingerprint']}`"),
        ("made of", ", ".join(f"`{one}`" for one in parents) or "its sources"),
        ("records", f"{about['records']:,}"),
        ("patients", plain(patients_in_words(store))),
        ("hours", f"{about['hours']:,.2f}"),
        ("leads", plain(" ".join(about["leads"]))),
        ("rate", f"{about['fs_hz']:g} Hz" if about["fs_hz"] else "each record's own"),
        ("size", f"{about['megabytes']:,.1f} MB in {about['shards']} shards"),
        ("format", f"ecgstore {store.format_version}: Zarr v3 and Parquet"),
    ]
    return rows


def _terms(about: dict[str, Any], said: CardSettings | None) -> list[str]:
    lines = []
    if said is not None:
        licence = None if said.licence is None else plain(said.licence)
        if said.licence_url is not None:
            licence = f"{licence or 'see'}: <{said.licence_url}>"
        rows = [
            ("licence", licence),
            ("version", said.version and plain(said.version)),
            ("published", said.published and plain(said.published)),
            ("made by", ", ".join(map(plain, said.creators))),
            ("contact", said.contact and plain(said.contact)),
            ("keywords", ", ".join(map(plain, said.keywords))),
            ("cite as", said.citation and plain(said.citation)),
        ]
        lines += [*_table((name, value) for name, value in rows if value), ""]
    else:
        lines += ["Nobody has said under which licence this store is; those of its sources hold.", ""]
    lines += ["The sources, whose terms hold for what came from them:", ""]
    lines += ["| source | version | licence | may be passed on | DOI | citation |", "|---|---|---|---|---|---|"]
    for one in about["sources"]:
        cells = [one["name"], one["version"], one["licence"]]
        shared = "yes" if one["redistributable"] else "**no**"
        told = [plain(cell) or "–" for cell in cells]
        lines.append(
            f"| {' | '.join(told)} | {shared} | {plain(one['doi']) or '–'} | {plain(one['citation']) or '–'} |"
        )
    return lines


def _made(about: dict[str, Any]) -> list[str]:
    recipe, noise = about["recipe"], about["noise"]
    filters = [plain(filter_words(one)) for one in recipe["filters"]]
    rows: list[tuple[str, object]] = [
        ("preparation", f"`{about['recipe_sha256']}`"),
        ("filters", ", ".join(filters) or "none"),
        ("rate asked for", f"{recipe['fs_hz']:g} Hz" if recipe["fs_hz"] else "each record's own"),
        ("unknown signals", plain(recipe["extra_leads"])),
        ("noise added", "none" if noise is None else plain(f"{noise['kind']}, seed {noise['seed']}")),
        ("kept as", plain(f"{about['encoding']} counts, {about['storage']['codec']}")),
        ("software", plain(", ".join(f"{name} {version}" for name, version in about["software"].items()))),
    ]
    lines = _table(rows)
    if about["lineage"]:
        lines += ["", "Made of other stores by these steps:", ""]
        for number, step in enumerate(about["lineage"], start=1):
            more = {name: value for name, value in step.items() if name not in ("made_by", "parents")}
            told = "; ".join(f"{plain(name)}: {plain(_in_words(value))}" for name, value in more.items())
            of = ", ".join(f"`{parent[:16]}…`" for parent in step["parents"])
            lines.append(f"{number}. {plain(step['made_by'])} of {of}{f' ({told})' if told else ''}")
    return lines


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _who(store: Store, about: dict[str, Any]) -> list[str]:
    sexes = store.column("sex").tolist()
    ages = np.asarray(store.column("age_years"), np.float64)
    known = ages[~np.isnan(ages)]
    middle = "not stated"
    if len(known):
        low, mid, high = np.percentile(known, [5, 50, 95])
        middle = f"{mid:.0f} years in the middle, {low:.0f} to {high:.0f} for nine of ten ({len(known):,} records)"
    sites = {site for site in store.column("site").tolist() if site} if "site" in store.records.column_names else set()
    gone = about["withdrawn"]
    withdrawn = f"{gone['patients']} patients, {gone['records']} single records" if any(gone.values()) else "nobody"
    drawn = store.attributes.get("folds_drawn")
    said = "" if drawn is None else f" (drawn by patient, 1 to {drawn})"
    return _table(
        [
            ("sex", f"{sexes.count('female'):,} female, {sexes.count('male'):,} male, {sexes.count(''):,} not stated"),
            ("age", middle),
            ("sites", plain(", ".join(sorted(sites)[:20]) + (" …" if len(sites) > 20 else "")) or "not stated"),
            ("folds", ", ".join(f"{fold}: {count:,}" for fold, count in about["folds"].items()) + said),
            ("patient keys", plain(about["patients_are"])),
            (
                "record ids",
                plain(
                    {"hashed": "hashed", "stem": "the last part of the source's"}.get(
                        str(store.attributes.get("record_ids", "path")), "the source's own"
                    )
                ),
            ),
            ("withdrawn from it, and from what it was made of", withdrawn),
        ]
    )


def _statements(store: Store, about: dict[str, Any]) -> list[str]:
    vocabulary = store.attributes["vocabulary"]
    if not vocabulary:
        return ["Nothing is stated of the records."]
    lines = ["Only for a code of this list does absence mean that it was looked for and not stated.", ""]
    for system, codes in vocabulary.items():
        counted = {code: about["statements"].get(f"{system}:{code}", 0) for code in codes}
        ordered = sorted(counted.items(), key=lambda one: (-one[1], one[0]))
        told = ", ".join(f"{plain(code)} {count:,}" for code, count in ordered[:MOST_CODES])
        more = f", and {len(ordered) - MOST_CODES:,} more" if len(ordered) > MOST_CODES else ""
        lines.append(f"- **{plain(system)}** ({len(codes):,} codes; records that state each): {told}{more}")
    if store.attributes.get("vocabulary_by_site"):
        lines += ["", "Sites state different codes: the store has a list for each."]
    return lines


def _quality(store: Store, about: dict[str, Any]) -> list[str]:
    lines = ["Measured on the recordings before any filter; the worst lead of each record counts.", ""]
    lines += ["| measure | unit | middle | 95th percentile |", "|---|---|---|---|"]
    for name, title, unit in _QUALITY:
        if name in store.records.column_names:
            values = np.asarray(store.column(name), np.float64)
            values = values[~np.isnan(values)]
            told = [f"{one:.3g}" for one in np.percentile(values, [50, 95])] if len(values) else ["–", "–"]
            lines.append(f"| {title} | {unit} | {' | '.join(told)} |")
    for title, counts in (("Suspicions", about["suspects"]), ("Warnings", about["warnings"])):
        if counts:
            lines += ["", f"{title}, the commonest:", ""]
            lines += [f"- {sentence(text)}: {count:,}" for text, count in list(counts.items())[:10]]
    return lines


def _left_out(about: dict[str, Any]) -> list[str]:
    if not about["rejected"]:
        return ["Nothing."]
    rows = [(reason, f"{count:,} ({plain(REASONS.get(reason, ''))})") for reason, count in about["rejected"].items()]
    return _table(rows, ("reason", "records"))


def _limits(store: Store, about: dict[str, Any], said: CardSettings | None) -> list[str]:
    lines = [f"- {sentence(one)}" for one in (said.limits if said else ())]
    if not about["patients"]:
        lines.append("- Patients are not named: records of one person may stand in several folds.")
    elif "secret" not in about["patients_are"]:
        lines.append("- Identifiers of patients can be guessed from their keys by whoever knows how they are built.")
    if not all(one["redistributable"] for one in about["sources"]):
        lines.append("- It holds records of a source that may not be passed on.")
    if about["noise"]:
        lines.append("- Noise was added: its quality columns are those of the recordings before that.")
    if set(about["folds"]) == {"none"}:
        lines.append("- No folds: draw some with `ecgstore split`.")
    lines.append("- Statements are those of the sources; nobody has checked them again.")
    lines.append(
        "- That a store is whole says nothing about who made it: compare the fingerprint with one that you were told."
    )
    return lines


def _how(store: Store) -> list[str]:
    name = Path(store.path.rstrip("/")).name
    shown = name if re.fullmatch(r"[\w.-]+", name) and not name.startswith("-") else "STORE"
    return [
        "```console",
        f"$ ecgstore verify {shown} --deep --fingerprint {store.fingerprint}",
        "```",
        "",
        "```text",
        "import ecgstore",
        "",
        f'store = ecgstore.open_store("{shown}")',
        'record = store.read(store.column("record_id")[0])  # millivolts, (leads, samples)',
        "```",
        "",
        "It is plain Zarr v3 and Parquet; docs/format.md says how zarr and pyarrow read it without this package.",
    ]
