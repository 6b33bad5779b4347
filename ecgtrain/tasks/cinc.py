"""The classes that the PhysioNet/CinC challenges of 2020 and 2021 score, and their metric.

Perez Alday et al. (Physiol. Meas. 41:124003, 2020) and Reyna et al. (CinC 48, 2021). Codes that are scored alike are
one class: 27 codes are 24 classes in 2020, 30 are 26 in 2021. As there, a record that doesn't state a class is a "no"
to it, whatever its site ever states; the result says where sites differ.

On a store with SNOMED CT codes these decide. On one with PTB-XL's SCP-ECG statements, those that the challenges' form
of PTB-XL states a scored code for do (``ecgstore/vocabularies/scp_snomed.csv``); classes that no statement stands for
are dropped and listed, axis deviations among them. The metric counts all classes in either case.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ecgstore import Store
from ecgstore.inner import challenge_weights, scored_classes, scp_to_snomed
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import Challenge, Targets, states_any, unknown_label_set

DESCRIPTION = "the classes and the metric of the PhysioNet/CinC challenges of 2020 and 2021"

LABEL_SETS: dict[str, str] = {
    "2020": "27 codes in 24 classes",
    "2021": "30 codes in 26 classes",
}

_SNOMED, _SCP = "snomed_ct", "scp_ecg"
_SINUS_RHYTHM = "426783006"


def members(year: int) -> dict[str, tuple[str, ...]]:
    """The classes of a challenge by their abbreviations, each with its SNOMED CT codes, its own first."""
    scored = scored_classes(year)
    return {
        one.abbreviation: (one.code, *(other.code for other in scored if other.equivalent == one.code))
        for one in scored
        if one.equivalent is None
    }


def targets(store: Store, label_set: str) -> Targets:
    """Targets for every record of ``store`` that states any code of a system that is understood.

    Raises ConfigError for an unknown label set, ProtocolError where the store's sources state none of its codes.
    """
    if label_set not in LABEL_SETS:
        raise unknown_label_set(label_set, LABEL_SETS, "cinc")
    year = int(label_set)
    classes = members(year)
    systems = [system for system in (_SNOMED, _SCP) if store.vocabulary(system)]
    stated = [_stated(store, system, classes) for system in systems]
    y_nc = np.any([y for y, _ in stated], axis=0) if stated else np.zeros((store.n_records, len(classes)), np.bool_)
    known_c = np.any([known for _, known in stated], axis=0) if stated else np.zeros(len(classes), np.bool_)
    if not known_c.any():
        raise ProtocolError(
            f"the sources of this store state none of the codes of task cinc/{label_set}",
            where=store.path,
            expected=f"codes of {_SNOMED} or {_SCP}",
            got=f"codes of {', '.join(sorted(store.attributes['vocabulary'])) or 'no system'}",
        )
    names = list(classes)
    normal = next(name for name, codes in classes.items() if _SINUS_RHYTHM in codes)
    return Targets(
        task=f"cinc/{label_set}",
        classes=tuple(name for name, known in zip(names, known_c, strict=True) if known),
        y_nc=y_nc[:, known_c],
        rows_with_label=np.flatnonzero(np.any([states_any(store, system) for system in systems], axis=0)),
        titles=_titles(year),
        dropped={
            name: "the store's sources never state it" for name, known in zip(names, known_c, strict=True) if not known
        },
        caveats=_unlike(store, classes),
        challenge=Challenge(tuple(names), y_nc, challenge_weights(year, merged=True), normal),
    )


def _stated(
    store: Store, system: str, classes: Mapping[str, tuple[str, ...]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which record states which class in ``system``, and which classes its vocabulary has a code of."""
    codes_of = {name: _codes(store, system, codes) for name, codes in classes.items()}
    codes = [code for of in codes_of.values() for code in of]
    matrix_nk = store.statement_matrix(codes, system)
    y_nc = np.zeros((store.n_records, len(classes)), dtype=np.bool_)
    for c, of in enumerate(codes_of.values()):
        y_nc[:, c] = matrix_nk[:, [codes.index(code) for code in of]].any(axis=1)
    return y_nc, np.array([bool(of) for of in codes_of.values()])


def _codes(store: Store, system: str, snomed: tuple[str, ...]) -> list[str]:
    """The codes of ``system`` that make a record one of a class, as far as the store's sources state them."""
    codes = snomed if system == _SNOMED else [scp for scp, code in scp_to_snomed().items() if code in snomed]
    return [code for code in codes if code in store.vocabulary(system)]


def _titles(year: int) -> dict[str, str]:
    names = {one.code: one.name for one in scored_classes(year)}
    return {name: ", or ".join(names[code] for code in codes) for name, codes in members(year).items()}


def _unlike(store: Store, classes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """A sentence where sites have vocabularies of their own, and so absent is no "no"."""
    by_site = store.attributes.get("vocabulary_by_site", {})
    lacking = {
        site: sum(not set(codes) & set(systems.get(_SNOMED, ())) for codes in classes.values())
        for site, systems in by_site.items()
        if systems.get(_SNOMED)
    }
    told = ", ".join(f"{site or 'no site'} {n}" for site, n in sorted(lacking.items()) if n)
    if not told or len(lacking) < 2:
        return ()
    return (f'classes that a site never states count as a "no" there, as the challenge counts them ({told})',)
