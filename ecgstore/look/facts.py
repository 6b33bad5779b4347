"""What a store holds, in numbers and plain values: for `ecgstore info`, for cards and for Croissant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ecgstore.storage.store import Store
from ecgstore.storage.withdrawn import Withdrawn


def facts(store: Store) -> dict[str, Any]:
    """Counts, settings and terms; what `ecgstore info --json` prints."""
    seconds = float((store.column("n_samples") / (store.attributes["fs_hz"] or store.column("source_fs_hz"))).sum())
    folds = Counter(int(fold) for fold in store.column("fold"))
    patients = {key for key in store.column("patient_key") if key}
    warned = Counter(part for text in store.column("warnings") for part in text.split("; ") if part)
    gone = Withdrawn.of(store.attributes)
    stated = Counter(zip(store.statements["system"].to_pylist(), store.statements["code"].to_pylist(), strict=True))
    return {
        "path": store.path,
        "fingerprint": store.fingerprint,
        "records": store.n_records,
        "patients": len(patients),
        # How their identifiers became what stands in patient_key.
        "patients_are": store.attributes["patients"],
        "hours": round(seconds / 3600, 3),
        "megabytes": round(store.n_bytes / 1e6, 3),
        "shards": store.n_shards,
        "leads": list(store.leads),
        "fs_hz": store.attributes["fs_hz"],
        "recipe": store.recipe,
        "recipe_sha256": store.recipe_sha256,
        # What `ecgstore augment` added, and the fingerprint of the store that it was added to.
        "noise": store.attributes.get("noise") or store.recipe.get("noise"),
        "parent": store.attributes.get("parent"),
        # By which steps it was made of other stores, and how many have withdrawn.
        "lineage": store.attributes.get("lineage", []),
        "withdrawn": {"patients": len(gone.patients), "records": len(gone.records)},
        "folds": {str(fold) if fold >= 0 else "none": count for fold, count in sorted(folds.items())},
        "statements": {f"{system}:{code}": count for (system, code), count in stated.most_common()},
        "encoding": store.encoding,
        "storage": store.storage,
        "std_mv": _std_mv(store),
        "suspects": dict(Counter(filter(None, _suspects(store))).most_common(10)),
        "rejected": dict(Counter(store.rejected["reason"].to_pylist())),
        "warnings": dict(warned.most_common(20)),
        "sources": [{name: getattr(terms, name) for name in type(terms).__dataclass_fields__} for terms in store.terms],
        "software": store.software,
    }


def _std_mv(store: Store) -> dict[str, float]:
    if store.encoding == "adc":
        return {}
    return {lead: round(float(std), 4) for lead, std in zip(store.leads, store.statistics().std_mv_l, strict=True)}


def _suspects(store: Store) -> list[str]:
    if "suspects" not in store.records.column_names:  # format 1
        return []
    return [part for text in store.column("suspects") for part in text.split("; ")]


def filter_words(settings: dict[str, Any], without: str = "") -> str:
    """A filter and its settings, such as ``bandpass (low_hz 0.5, high_hz 40)``."""
    values = ((name, value) for name, value in settings.items() if name not in ("name", without))
    words = (f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}" for name, value in values)
    return f"{settings['name']} ({', '.join(words)})"


#: A high-pass above this moves the ST segment (Kligfield et al. 2007, Circulation 115:1306).
_ST_HZ = 0.05


def st_warning(filters: Sequence[Mapping[str, Any]]) -> str:
    """What filters leave no reading of ST segments, such as ``filtered 0.5–40 Hz: not for reading ST``; else empty."""
    edges = {"bandpass": "low_hz", "highpass": "freq_hz"}
    for one in filters:
        name = one["name"]
        if name in edges and one[edges[name]] > _ST_HZ:
            upper = f"–{one['high_hz']:g} Hz" if name == "bandpass" else " Hz and above"
            return f"filtered {one[edges[name]]:g}{upper}: not for reading ST"
        if name in ("median", "neurokit"):
            return "baseline taken away: not for reading ST"
    return ""
