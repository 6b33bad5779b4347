"""One page on a store for people: what is in it, how good it is, what was left out, what is there twice, pictures.

The page is one HTML file without any reference to another: it opens offline, prints, and can be sent by mail. The
same store gives the same bytes. Stores of an older format have fewer columns; what rests on them is left out.
"""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from ecgstore.build.notes import signals_left_out
from ecgstore.build.patients import patients_in_words
from ecgstore.errors import REASONS, ConfigError, need, visible_on_page
from ecgstore.look import overlap
from ecgstore.look.by_fold import ByFold, by_fold
from ecgstore.look.parts import lasts_s
from ecgstore.storage import disk, publish
from ecgstore.storage.beside import card_of
from ecgstore.storage.outside import refuse_within_store
from ecgstore.storage.store import Store
from ecgstore.storage.withdrawn import Withdrawn
from ecgstore.vocabularies.titles import title_of

#: A store without signatures is read as a whole to look for near copies, unless it holds more records than this.
MOST_UNSIGNED = 20_000
N_STATEMENTS, N_EXAMPLES, N_SHOWN = 40, 5, 50


class _Measure(NamedTuple):
    column: str
    title: str
    unit: str
    about: str


#: What is told of quality, in this order: column of the records, title, unit, meaning.
MEASURES = (
    _Measure("hf_noise_mv", "Noise", "mV", "between the beats, 20 to 50 Hz"),
    _Measure("mains_mv", "Mains", "mV", "at 50 or 60 Hz, whichever is more"),
    _Measure("baseline_mv", "Baseline wander", "mV", "below 0.5 Hz"),
    _Measure("range_mv", "Range", "mV", "highest less lowest value"),
    _Measure("einthoven_mv", "Einthoven residual", "mV", "of II − I − III, measured leads only"),
    _Measure("flat_fraction", "Flat", "", "share of samples in runs of 0.2 s or more without change"),
    _Measure("clipped_fraction", "Clipped", "", "share of samples stuck at the lead's extreme"),
    _Measure("missing_fraction", "Missing", "", "share of samples not recorded"),
    _Measure("heart_rate_bpm", "Heart rate", "bpm", "by neurokit2"),
    _Measure("sqi", "Signal quality index", "", "by neurokit2, 0 to 1"),
    _Measure("snr_db", "Signal to added noise", "dB", "where noise was added"),
)
#: Of these the worst records are shown, in turns.
_WORST = ("hf_noise_mv", "baseline_mv", "mains_mv", "range_mv", "flat_fraction", "clipped_fraction", "missing_fraction")
_PERCENTILES = (1, 5, 50, 95, 99)


def write(store: Store, out: Path, n_pages: int = 10) -> Path:
    """Write the page on ``store`` to the file ``out``, whole or not at all, and return ``out``.

    ``n_pages`` records are shown as ECG pages: typical ones, then suspects, then the worst by each measure in turns.
    Raises ConfigError where ``out`` is a folder or within a store, or ``n_pages`` negative; StoreError where the disk
    is full; MissingExtra without jinja2 or matplotlib.
    """
    out = Path(out)
    if out.is_dir():
        raise ConfigError(
            "the report is a file, and this is a folder", where=out, fix="name a file, such as report.html"
        )
    refuse_within_store(out)
    if n_pages < 0:
        raise ConfigError("the number of ECG pages can't be negative", got=n_pages)
    content = render(store, n_pages).encode()
    with disk.saying_full(out):
        publish.write_bytes(out, content)
    return out


def render(store: Store, n_pages: int = 10) -> str:
    """The whole page as HTML; see :func:`write`."""
    template = _template()
    need("matplotlib", "ingest")
    twice = _twice(store)
    left_out = _left_out(store)
    suspects = _suspects(store)
    folds = by_fold(store)
    chosen = _chosen(store, n_pages, suspects)
    page: str = template.render(
        title=Path(store.path).name,
        store=store,
        facts=_facts(store),
        notes=_notes(store, twice, left_out, suspects, folds),
        counts=_counts(store, with_folds=folds is None),
        histograms=[one for one in (_ages(store), _durations(store)) if one],
        by_fold=folds,
        statements=_statements(store),
        n_statements=N_STATEMENTS,
        quality=_quality(store),
        suspects=suspects,
        left_out=left_out,
        n_left_out=store.rejected.num_rows,
        warnings=_warnings(store),
        twice=twice,
        pages=[_page(store, row, why) for row, why in chosen],
        drawn={row for row, _ in chosen},
        more_left_out=_more_left_out(store),
        terms=store.terms,
        said=card_of(store.path),
        recipe=yaml.safe_dump(store.recipe, sort_keys=False, allow_unicode=True),
        software=store.software,
    )
    return page


@cache
def _template() -> Any:
    """The page's template, compiled once; raises MissingExtra where jinja2 is not installed."""
    jinja2 = need("jinja2", "ingest")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=visible_on_page)
    environment.filters |= {"count": _count, "number": _number, "percent": _percent}
    return environment.from_string(resources.files("ecgstore.look").joinpath("report.html.j2").read_text("utf-8"))


# --- what is in the store -------------------------------------------------------------------------------------


def _facts(store: Store) -> dict[str, str]:
    rates = sorted({float(rate) for rate in store.column("source_fs_hz")})
    stored_hz = store.column("source_fs_hz") if store.attributes["fs_hz"] is None else store.fs_hz
    hours = float((store.column("n_samples") / stored_hz).sum()) / 3600
    return {
        "Records": _count(store.n_records),
        "Patients": patients_in_words(store),
        "Recorded": f"{hours:,.1f} h",
        "Leads": " ".join(store.leads),
        "Rate": "as in the source" if store.attributes["fs_hz"] is None else f"{store.fs_hz:g} Hz",
        "Rate of the source": ", ".join(f"{rate:g}" for rate in rates[:12]) + " Hz" + (" …" if len(rates) > 12 else ""),
        "Size": f"{store.n_bytes / 1e6:,.1f} MB in {_count(store.n_shards)} shards",
    }


def _counts(store: Store, *, with_folds: bool) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Tables of how many records there are, by source, site, fold, sex and lead states."""
    tables = []
    for title, column in (("Source", "source"), ("Site", "site"), ("Fold", "fold"), ("Sex", "sex")):
        if column == "fold" and not with_folds:
            continue
        if column not in store.records.column_names:
            continue
        values = [None if value in ("", -1) else value for value in store.column(column).tolist()]
        if set(values) == {None} and column == "site":
            continue
        tables.append((title, _shares(Counter(values))))
    words = {"m": "measured", "d": "derived", "a": "absent", "b": "bad"}
    states = Counter(letter for text in store.column("lead_states") for letter in set(text))
    tables.append(
        (
            "Records with a lead that is",
            [(words[s], states[s], states[s] / store.n_records) for s in words if states[s]],
        )
    )
    return tables


def _shares(counts: Counter[Any]) -> list[tuple[str, int, float]]:
    total = sum(counts.values())
    known = sorted((value for value in counts if value is not None), key=lambda v: (isinstance(v, str), v))
    if len(known) > 12:
        known = sorted(known, key=lambda v: -counts[v])[:12]
    rows = [(str(value), counts[value], counts[value] / total) for value in known]
    others = total - counts[None] - sum(counts[value] for value in known)
    rows += [("others", others, others / total)] if others else []
    return rows + ([("not stated", counts[None], counts[None] / total)] if counts[None] else [])


def _statements(store: Store) -> list[tuple[str, str, str, int, float]]:
    """Code, what it is in words, coding system, records and their share."""
    pairs = zip(store.statements["system"].to_pylist(), store.statements["code"].to_pylist(), strict=True)
    counts = sorted(Counter(pairs).items(), key=lambda one: (-one[1], one[0]))
    return [(code, title_of(code, system), system, n, n / store.n_records) for (system, code), n in counts]


class _Histogram(NamedTuple):
    """Bars for a small picture; ``ticks`` are (share of the width, text), ``bars`` shares of the highest one."""

    title: str
    unit: str
    about: str
    bars: list[float]
    ticks: list[tuple[float, str]]
    percentiles: list[tuple[str, str]]
    n: int

    @property
    def alt(self) -> str:
        """The same in words."""
        told = ", ".join(f"{name} {value}" for name, value in self.percentiles)
        return f"Histogram of {self.title.lower()} over {self.n:,} records: {told} {self.unit}".rstrip()


def _ages(store: Store) -> _Histogram | None:
    return _histogram(_Measure("age_years", "Age", "years", ""), store.column("age_years"), np.arange(0.0, 105.0, 5.0))


def _durations(store: Store) -> _Histogram | None:
    stored_hz = store.column("source_fs_hz") if store.attributes["fs_hz"] is None else store.fs_hz
    return _histogram(_Measure("duration_s", "Length", "s", ""), store.column("n_samples") / stored_hz)


def _quality(store: Store) -> list[_Histogram]:
    found = []
    for measure in MEASURES:
        if measure.column in store.records.column_names:
            one = _histogram(measure, store.column(measure.column))
            found += [one] if one else []
    return found


def _histogram(
    measure: _Measure, values: npt.NDArray[np.floating], edges: npt.NDArray[np.float64] | None = None
) -> _Histogram | None:
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    is_log = False
    if values.min() == values.max():
        return _Histogram(
            measure.title, measure.unit, measure.about, [], [], [("all", _number(values[0]))], len(values)
        )
    if edges is None:
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
        # Voltages spread over decades; shares start at zero.
        is_log = low > 0 and high > 10 * low
        if high <= low:
            low, high = float(values.min()), float(values.max())
        edges = np.geomspace(low, high, 31) if is_log else np.linspace(min(low, 0.0), high, 31)
    counted = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)[0]
    at = edges[:: (len(edges) - 1) // 2]
    return _Histogram(
        measure.title,
        measure.unit,
        measure.about + (", logarithmic axis" if is_log else ""),
        [float(n) / max(1, counted.max()) for n in counted],
        [(i / (len(at) - 1), _number(float(edge))) for i, edge in enumerate(at)],
        [
            ("median" if p == 50 else f"{p} %", _number(float(v)))
            for p, v in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)
        ]
        + [("highest", _number(float(values.max())))],
        len(values),
    )


# --- what is wrong with it --------------------------------------------------------------------------------------


class _Example(NamedTuple):
    """A record; ``row``: its number, None where it isn't in the store; ``detail``: what is said of it alone."""

    record_id: str
    detail: str
    row: int | None = None


class _Group(NamedTuple):
    """Records of which one thing is said."""

    what: str
    meaning: str
    n: int
    examples: list[_Example]


def _suspects(store: Store) -> list[_Group]:
    if "suspects" not in store.records.column_names:
        return []
    return _grouped(store.column("record_id"), store.column("suspects"))


def _warnings(store: Store) -> list[_Group]:
    return _grouped(store.column("record_id"), store.column("warnings"))


def _grouped(ids: npt.NDArray[Any], texts: npt.NDArray[Any]) -> list[_Group]:
    """Texts that differ in their numbers only stand together, with the whole text beside each example."""
    groups: dict[str, list[_Example]] = {}
    for row, (record_id, text) in enumerate(zip(ids, texts, strict=True)):
        for part in filter(None, text.split("; ")):
            what = re.sub(r"(?<![\w.])[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?![\w.])", "…", part)
            groups.setdefault(what, []).append(_Example(str(record_id), part if what != part else "", row))
    ordered = sorted(groups.items(), key=lambda one: (-len(one[1]), one[0]))
    return [_Group(what, "", len(found), found[:N_EXAMPLES]) for what, found in ordered]


def _left_out(store: Store) -> list[_Group]:
    groups: dict[str, list[_Example]] = {}
    for one in store.rejected.to_pylist():
        groups.setdefault(one["reason"], []).append(_Example(one["record_id"], one["detail"] or ""))
    ordered = sorted(groups.items(), key=lambda one: (-len(one[1]), one[0]))
    return [_Group(reason, REASONS.get(reason, ""), len(found), found[:N_EXAMPLES]) for reason, found in ordered]


def _more_left_out(store: Store) -> list[str]:
    """Signals that weren't taken over, and who has withdrawn: a sentence each."""
    signals: Counter[str] = Counter()
    for text in store.column("warnings"):
        for one in text.split("; "):
            signals.update(signals_left_out(one))
    told = []
    if signals:
        named = ", ".join(f"{name} of {_plural(n, 'record')}" for name, n in signals.most_common(12))
        more = f" and {len(signals) - 12} more" if len(signals) > 12 else ""
        told.append(f"Signals left out: {named}{more}.")
    gone = Withdrawn.of(store.attributes)
    if gone:
        told.append(
            f"Withdrawn since: {_plural(len(gone.patients), 'patient')} and {_plural(len(gone.records), 'record')}."
        )
    return told


def _twice(store: Store) -> dict[str, Any]:
    """Exact and near copies, each group with what it crosses."""
    exact = overlap.exact_duplicates(store)
    is_looked_for = "signature" in store.records.column_names or store.n_records <= MOST_UNSIGNED
    in_exact = {(i, j) for rows in exact for i in rows for j in rows}
    near = [one for one in overlap.near_duplicates(store) if one[:2] not in in_exact] if is_looked_for else []
    groups = [(rows, 1.0) for rows in exact] + [((i, j), c) for i, j, c in near]
    told = [_copies(store, rows, correlation) for rows, correlation in groups]
    return {
        "groups": sorted(told, key=lambda one: not one["crosses"])[:N_SHOWN],
        "n_exact": len(exact),
        "n_near": len(near),
        "n_across_folds": sum(one["across_folds"] for one in told),
        "n_across_patients": sum(one["across_patients"] for one in told),
        "is_looked_for": is_looked_for,
    }


def _copies(store: Store, rows: Sequence[int], correlation: float) -> dict[str, Any]:
    at = list(rows)
    folds = [int(fold) for fold in store.column("fold")[at]]
    patients = [str(key) for key in store.column("patient_key")[at]]
    across_folds, across_patients = len(set(folds)) > 1, len(set(patients) - {""}) > 1
    crosses = [name for name, is_so in (("folds", across_folds), ("patients", across_patients)) if is_so]
    return {
        "records": [str(record_id) for record_id in store.column("record_id")[at]],
        "folds": ["–" if fold < 0 else str(fold) for fold in folds],
        "kind": "the same" if correlation == 1.0 and len(at) > 0 else f"alike, {correlation:.3f}",
        "across_folds": across_folds,
        "across_patients": across_patients,
        "crosses": " and ".join(crosses),
    }


def _notes(
    store: Store,
    twice: Mapping[str, Any],
    left_out: Sequence[_Group],
    suspects: Sequence[_Group],
    folds: ByFold | None,
) -> list[str]:
    """What a reader must not miss."""
    notes = []
    bound = [terms.name for terms in store.terms if not terms.redistributable]
    if bound:
        notes.append(
            f"Not to be passed on: {', '.join(bound)}, and so not this page either, which shows records of it."
        )
    if folds is not None and folds.n_torn:
        notes.append(
            f"{_plural(folds.n_torn, 'patient')} with records in more than one fold: a model can be tested on somebody "
            "whom it was trained on."
        )
    if twice["n_across_folds"]:
        notes.append(
            f"{_plural(twice['n_across_folds'], 'group')} of copies across folds: a model can be tested on a signal "
            "that it was trained on."
        )
    n_left_out = sum(group.n for group in left_out)
    if n_left_out:
        share = n_left_out / (n_left_out + store.n_records)
        notes.append(f"{_plural(n_left_out, 'record')} ({_percent(share)}) left out; reasons below.")
    if suspects:
        n = sum(bool(text) for text in store.column("suspects"))
        share = n / store.n_records
        notes.append(f"{_plural(n, 'record')} ({_percent(share)}) with something to look at; none was changed.")
    return notes


# --- pictures -----------------------------------------------------------------------------------------------------


def _chosen(store: Store, n_pages: int, suspects: Sequence[_Group]) -> list[tuple[int, str]]:
    """Rows to draw and why: two typical records, suspects up to half, then the worst by each measure in turns.

    Suspects are the first of each suspicion, then the second of each.
    """
    names = store.records.column_names
    chosen: dict[int, str] = {}
    measures = [measure for measure in MEASURES if measure.column in _WORST and measure.column in names]
    for row in _typical(store, min(2, n_pages)):
        chosen.setdefault(row, "Typical" if measures else "Picked evenly from the store")
    most = len(chosen) + max(3, n_pages // 2)
    for turn in range(N_EXAMPLES):
        for group in suspects:
            one = group.examples[turn] if turn < len(group.examples) else None
            if one is not None and one.row is not None and len(chosen) < most:
                chosen.setdefault(one.row, f"Suspect: {one.detail or group.what}")
    ranks = {}
    for measure in measures:
        values = np.nan_to_num(store.column(measure.column).astype(np.float64), nan=0.0)
        ranks[measure] = [int(row) for row in np.argsort(-values, kind="stable")[:n_pages] if values[row] > 0]
    for turn in range(n_pages):
        for measure, rows in ranks.items():
            if turn < len(rows) and len(chosen) < n_pages:
                value = float(store.column(measure.column)[rows[turn]])
                unit = f" {measure.unit}" if measure.unit else ""
                place = "Highest" if turn == 0 else f"Number {turn + 1}"
                chosen.setdefault(rows[turn], f"{place} by {measure.title.lower()}: {_number(value)}{unit}")
    for row in np.linspace(0, store.n_records - 1, n_pages).astype(int).tolist():
        if len(chosen) < n_pages and not measures:
            chosen.setdefault(row, "Picked evenly from the store")
    return list(chosen.items())[:n_pages]


def _typical(store: Store, n: int) -> list[int]:
    """The records nearest to the median in noise, baseline and range at once."""
    columns = [name for name in ("hf_noise_mv", "baseline_mv", "range_mv") if name in store.records.column_names]
    if not columns:
        return [store.n_records // 2][:n]
    distance = np.zeros(store.n_records)
    for name in columns:
        measured = store.column(name).astype(np.float64)
        is_known = np.isfinite(measured)
        if not is_known.any():
            continue
        values = np.log(np.maximum(measured, 1e-6, where=is_known, out=np.ones(len(measured))))
        spread = float(values[is_known].std()) or 1.0
        far = np.abs(values - np.median(values[is_known])) / spread
        distance += np.where(is_known, far, 9.0)
    return [int(row) for row in np.argsort(distance, kind="stable")[:n]]


def _page(store: Store, row: int, why: str) -> dict[str, Any]:
    from ecgstore.look import plot

    record_id = str(store.column("record_id")[row])
    n_leads = sum(state != "a" for state in str(store.column("lead_states")[row]))
    return {
        "why": why,
        "row": row,
        "record_id": record_id,
        "alt": f"ECG page of record {record_id}: {n_leads} leads, {lasts_s(store, row):g} s. {why}",
        "png": base64.b64encode(plot.record_png(store, record_id)).decode(),
    }


# --- words ------------------------------------------------------------------------------------------------------


def _count(value: int) -> str:
    return f"{value:,}"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    # Two digits, more where they stand before the point.
    digits = max(0, 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
