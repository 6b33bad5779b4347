"""The preparation that a passport states, done once more: to a folder of recordings, or to one record in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ecgstore import ConfigError, IngestSettings, LeadState, Store, ingest_folder, open_store
from ecgstore.inner import Recipe, first_difference, parse
from ecgtrain.deployment import one_record
from ecgtrain.errors import PassportError
from ecgtrain.views.passport import Passport

#: Called with (phase, done, total), as an ingest does.
Progress = Callable[[str, int, int], None]

#: States of leads of which nothing is to be seen: not there, or never changing.
LOST = (LeadState.ABSENT, LeadState.BAD)

#: What becomes of a recording with a signal that is no lead: it is refused, or goes on without that signal.
ExtraLeads = Literal["refuse", "drop"]

#: The store lives as long as the call: whoever its patients are is told to nobody.
_PATIENT_KEY = "public"


def recipe_of(passport: Passport) -> Recipe:
    """The recipe that a passport states, for its leads; it may come from anywhere, and can name no code and no file.

    Raises PassportError where this release doesn't prepare signals so, or where recordings should be changed so.
    """
    try:
        recipe = parse(Recipe, passport.recipe, where="the passport's preparation")
        missing = [lead for lead in passport.leads if lead not in recipe.leads]
        recipe = parse(
            Recipe, {**passport.recipe, "leads": [*recipe.leads, *missing]}, where="the passport's preparation"
        )
    except ConfigError as error:
        raise PassportError("the passport's preparation can't be followed", got=str(error)) from error
    differing = first_difference(
        *({key: value for key, value in its.items() if key != "leads"} for its in (passport.recipe, _dumped(recipe)))
    )
    if differing is not None:
        raise PassportError(
            f"the model's records were prepared in a way of an older release: {differing.name} differs",
            expected=differing.one,
            got=differing.other,
            fix="take the release that made them, or train again",
        )
    if recipe.encoding != "microvolt" or recipe.fs_hz != passport.fs_hz:
        raise PassportError(
            "the passport contradicts itself",
            expected=f"a preparation for microvolts at {passport.fs_hz:g} Hz",
            got=f"{recipe.encoding} at {recipe.fs_hz} Hz",
        )
    if recipe.noise is not None:
        raise PassportError(
            "the model learned from records with added noise, and none is added to recordings that are asked about",
            fix="make a store with that noise, and predict on the store",
        )
    return recipe


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")


@contextmanager
def replayed(
    passport: Passport,
    path: Path,
    *,
    source: str | None = None,
    extra_leads: ExtraLeads | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Iterator[Store]:
    """A store of the recordings at ``path``, prepared as the model's were; it is gone when the block ends.

    ``path``: a folder of WFDB records, or one record. ``source``: which kind of folder, as for an ingest.
    ``extra_leads``: None for what the passport says. The store stands in the folder for temporary files (TMPDIR).

    Raises PassportError, and what an ingest raises: SourceError where there is no record, or none that can be used.
    """
    record = one_record.record_at(path)
    if record is not None and source is not None:
        raise ConfigError("a single record has no source", got=source, fix="leave --source out, or name a folder")
    chosen: Any = source if record is None else one_record.Settings(record=record.name)
    content = {**_dumped(recipe_of(passport)), "source": chosen, "patient_key": _PATIENT_KEY, "max_rejected": 1.0}
    if extra_leads is not None:
        content["extra_leads"] = extra_leads
    settings = parse(IngestSettings, content, where="the passport's preparation" if source is None else "--source")
    with tempfile.TemporaryDirectory(prefix="ecgtrain-") as folder:
        out = Path(folder) / "recordings.ecg"
        root = path if record is None else record.parent
        ingest_folder(root, out, settings, workers=workers, progress=progress)
        yield open_store(out)
