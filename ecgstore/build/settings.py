"""Settings of an ingest, and the profiles that fill them in."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from ecgstore.build.patients import PUBLIC, RecordIds, refuse_short
from ecgstore.build.plan import Recipe, Storage
from ecgstore.errors import ConfigError
from ecgstore.rooms import name_own_file, occupant, occupants
from ecgstore.settings import Settings, parse
from ecgstore.signals.noise import check_noise, with_bank
from ecgstore.signals.recorded_noise import load_bank


def _parse_source(value: Any) -> Any:
    """A source as its user names it: a file of one's own may be run."""
    if isinstance(value, Settings):
        return value
    mapping = {"name": value} if isinstance(value, str) else value
    if not isinstance(mapping, dict) or "name" not in mapping:
        raise ValueError(f"a source is a name, or a mapping with its name: {', '.join(occupants('ecgstore.sources'))}")
    try:
        if str(mapping["name"]).endswith(".py"):
            name_own_file(str(mapping["name"]), "source")
        return source_of(mapping)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def source_of(mapping: Mapping[str, Any]) -> Settings:
    """The settings of the source that ``mapping`` names; of a file, only where its user has named it.

    Raises ConfigError.
    """
    name = str(mapping.get("name"))
    module = occupant("ecgstore.sources", name)
    kind: type[Settings] = getattr(module, "Settings", Settings)
    if not name.endswith(".py"):
        return parse(kind, mapping)
    _refuse_half_a_source(module)
    # A file of yours may call itself what it likes, and may do without settings.
    return parse(kind, {key: value for key, value in mapping.items() if key != "name"})


def _refuse_half_a_source(module: ModuleType) -> None:
    lacks = [name for name in ("TERMS", "Settings", "list_records") if not hasattr(module, name)]
    if lacks:
        raise ConfigError(
            "the source file lacks a part", where=module.__file__, expected=", ".join(lacks), fix="see docs/sources.md"
        )
    has = [name for name in ("read_header", "read_samples") if hasattr(module, name)]
    if len(has) == 1:
        raise ConfigError(
            "the source file has half a reader",
            where=module.__file__,
            expected="read_header and read_samples",
            got=has[0],
            fix="see docs/how-to/add-a-source.md",
        )


def module_of(source: Settings) -> ModuleType:
    """The file of the room that these settings are of: a source's settings stand in the source's own file."""
    return sys.modules[type(source).__module__]


#: A source's settings, told apart by ``name``: that of its file in ``ecgstore/sources``, or a path to a file of yours.
Source = Annotated[SerializeAsAny[Settings], BeforeValidator(_parse_source)]


def profile_settings(profile: str, fs_hz: Any = 100.0, mains_hz: Any = 50) -> dict[str, Any]:
    """What a profile stands for; any setting given beside it wins.

    ``train`` has a notch at ``mains_hz`` only where a store of ``fs_hz`` can hold the mains: what is at or above half
    the store's rate is cut off without one. Neither need be a number yet: what isn't is refused later, by its name.
    """
    narrow = {"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0}
    wide = {"name": "bandpass", "low_hz": 0.05, "high_hz": 150.0, "order": 1}
    notch = [{"name": "notch", "freq_hz": mains_hz}] if _can_hold(fs_hz, mains_hz) else []
    profiles: dict[str, dict[str, Any]] = {
        "train": {"fs_hz": 100.0, "filters": [narrow, *notch]},
        "diagnostic": {"fs_hz": 500.0, "filters": [wide]},
        "raw": {"fs_hz": None, "filters": [], "encoding": "adc"},
    }
    return profiles[profile]


def _can_hold(fs_hz: Any, freq_hz: Any) -> bool:
    """Whether a store of this rate holds this frequency; one of each record's own rate (None) may."""
    try:
        return fs_hz is None or float(fs_hz) > 2 * float(freq_hz)
    except (TypeError, ValueError):
        return False


class IngestSettings(Recipe, Storage):
    """All settings of an ingest: the preparation, how it is kept, the source, and what may be left out.

    ``profile`` fills in what is not given: ``train`` (100 Hz, 0.5-40 Hz), ``diagnostic`` (500 Hz, 0.05-150 Hz) or
    ``raw`` (the source's own counts).
    """

    profile: Literal["train", "diagnostic", "raw"] = "train"
    #: Frequency of the mains where the records were made: the notch that ``train`` has in stores of more than twice it.
    mains_hz: Literal[50, 60] = 50
    #: The kind of folder, by its name or with its own settings; None looks for itself.
    source: Source | None = None
    #: Folder of the recorded noise (NSTDB), for ``noise`` of the kinds nstdb-….
    noise_bank: Path | None = None
    #: Folds to draw by patient, for a source that states none; see :mod:`ecgstore.build.folds`.
    folds: int | None = Field(None, ge=2, le=1000)
    #: The largest share of records that may be left out before the ingest reports failure.
    max_rejected: float = Field(0.01, ge=0, le=1)
    #: Patients are stored as keyed hashes. The same key gives the same hashes in every store, so that overlap
    #: between stores can be found; a secret key keeps others from testing whether somebody is in it. ``public``: none,
    #: and the identifiers may be guessed, as those of a published data set may.
    patient_key: str = Field("", exclude=True, repr=False)

    #: Ids of records: the source's own (in a plain folder the path), the last part of that, or keyed hashes of it.
    record_ids: RecordIds = "path"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or content.get("profile", "train") not in ("train", "diagnostic", "raw"):
            return content
        asked = {name: content[name] for name in ("fs_hz", "mains_hz") if name in content}
        return profile_settings(content.get("profile", "train"), **asked) | dict(content)

    @field_validator("patient_key")
    @classmethod
    def _long_enough(cls, key: str) -> str:
        return refuse_short(key)

    @property
    def secret_key(self) -> str:
        """The secret that patients are hashed with; empty where there is none."""
        return "" if self.patient_key == PUBLIC else self.patient_key

    @property
    def recipe(self) -> Recipe:
        """What is done to the signals, without where they come from."""
        recipe = Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})
        if recipe.noise is None:
            return recipe
        bank = load_bank(self.noise_bank) if self.noise_bank is not None else None
        check_noise(recipe.noise, recipe.fs_hz or math.inf, bank)
        return recipe.model_copy(update={"noise": with_bank(recipe.noise, bank)})

    @property
    def storage(self) -> Storage:
        """How the store keeps what was prepared."""
        return Storage(codec=self.codec, quality=self.quality)


def _default_settings(room_file: ModuleType) -> Settings:
    """A room file's settings where nothing was said about them."""
    settings: Settings = room_file.Settings()
    return settings


def detect_source(root: Path) -> Settings:
    """Tell which source a folder looks like; a plain WFDB folder if it looks like none."""
    for name in occupants("ecgstore.sources"):
        module = occupant("ecgstore.sources", name)
        if hasattr(module, "is_here") and module.is_here(root):
            return _default_settings(module)
    return _default_settings(occupant("ecgstore.sources", "wfdb_folder"))
