"""One recipe is one run: data, pretraining, and what is asked of the representation afterwards.

``method`` and ``backbone`` name files in their rooms; the rest of such a section is parsed by that file's own
``Settings``. Only the chosen files are imported, so this module itself stays free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from ecgstore import ConfigError, Settings, occupant, override, parse, read_yaml
from ecgtrain import optim
from ecgtrain.plan import MAX_DRAWS


def _settings_of(room: str, content: Any) -> Settings:
    """Parse the mapping ``content`` by the settings of the file it names in ``room``."""
    if isinstance(content, Settings):
        return content
    if isinstance(content, str):
        content = {"name": content}
    if not isinstance(content, Mapping) or "name" not in content:
        raise ConfigError("this section must hold a mapping with a name", got=repr(content))
    if str(content["name"]).endswith(".py"):
        raise ConfigError(
            "methods and backbones go by their names, not by their files",
            got=content["name"],
            fix=f"put the file into {room.replace('.', '/')}, and name it without .py",
        )
    chosen: type[Settings] = occupant(room, str(content["name"])).Settings
    return parse(chosen, content)


MethodSettings = Annotated[SerializeAsAny[Settings], BeforeValidator(partial(_settings_of, "ecgtrain.methods"))]
BackboneSettings = Annotated[SerializeAsAny[Settings], BeforeValidator(partial(_settings_of, "ecgtrain.backbones"))]
Folds = Annotated[tuple[int, ...], Field(min_length=1)]


class Feeding(Settings):
    """How decoded records are kept, and which of their windows training draws.

    ``feed``: device, resident, memmap and stream are described in :mod:`ecgtrain.feed`; auto takes the first
    that the records fit. ``cache_dir``: where a memmap goes. ``edge_s``: seconds at both ends of every record
    that no window touches. ``windows``: one window per record and epoch, or as many as lie side by side in it.
    ``balance``: sources, or statements (a record goes by its rarest one), come alike; ``balance_strength`` below 1
    stops short of that. ``draws`` windows are taken from each record of a stream while its shard is decoded, and
    ``pool_shards`` shards are mixed. ``strict``: stop at a record that can't be read, instead of going on without.
    """

    feed: Literal["auto", "device", "resident", "memmap", "stream"] = "auto"
    cache_dir: str | None = None
    edge_s: NonNegativeFloat = 0.0
    windows: Literal["record", "length"] = "record"
    balance: Literal["none", "source", "statement"] = "none"
    balance_strength: PositiveFloat = Field(default=1.0, le=1.0)
    draws: int = Field(default=8, ge=8, le=MAX_DRAWS)
    pool_shards: PositiveInt = 16
    strict: bool = False


class MixedStore(Settings):
    """Another store to pretrain on; ``where`` selects records, ``weight`` is its share of the windows."""

    path: str
    weight: PositiveFloat | None = None
    where: str = ""


class Data(Feeding):
    """Where the records come from. ``leads`` picks some of the store's, in this order; all by default.

    ``where``, ``sources`` and ``sites`` select records of ``store`` for pretraining, within the folds.
    ``exclude_sources``, ``exclude_folds`` and ``exclude_patients`` leave records of all stores out of pretraining. The
    last is a text file with a patient key on each line, or the ``seen.parquet`` of another run.

    ``noise_bank``: a folder with the recorded noise of NSTDB, for views that add it.

    ``stores`` are mixed in; with ``weight`` set on all of them and here, windows come in those proportions, else
    every record counts alike. Passport and statistics are those of ``store``.
    """

    store: str
    leads: tuple[str, ...] | None = Field(default=None, min_length=1)
    where: str = ""
    sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    sites: tuple[str, ...] | None = Field(default=None, min_length=1)
    exclude_sources: tuple[str, ...] = ()
    exclude_folds: tuple[int, ...] = ()
    exclude_patients: str | None = None
    noise_bank: str | None = None
    weight: PositiveFloat | None = None
    stores: tuple[MixedStore, ...] = ()

    @model_validator(mode="after")
    def _weights(self) -> Self:
        weights = [self.weight, *(other.weight for other in self.stores)]
        if len({weight is None for weight in weights}) > 1:
            raise ValueError("give every store a weight (data.weight is that of data.store), or none of them")
        return self


class Training(Settings):
    """A budget and how it is spent; training counts steps, of ``batch_size`` windows over all ranks.

    Exactly one of ``steps`` and ``epochs`` is given. ``accumulate``: each rank takes its slice of a batch in so many
    parts and adds up their gradients, for batches that don't fit into memory. ``precision`` bfloat16 and float16 run
    the networks under autocast, with weights and losses in float32; float16 scales the loss. ``compile`` lets
    ``torch.compile`` fuse the network, and goes on without where that fails. ``sync_batchnorm``: statistics over all
    ranks; by default where the method needs them. ``patience``: stop after so many validations without a lower loss.
    """

    batch_size: PositiveInt
    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    optimiser: optim.Settings = optim.Settings()
    accumulate: PositiveInt = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    sync_batchnorm: bool | None = None
    patience: PositiveInt | None = None
    log_every_steps: PositiveInt = 20
    validate_every_steps: PositiveInt = 200
    checkpoint_every_steps: PositiveInt = 200

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs must be given; null takes the other away")
        return self

    def n_steps(self, steps_per_epoch: int) -> int:
        """The whole budget in steps."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * steps_per_epoch


class Pretrain(Training):
    """Learning without labels, on the records of ``folds``.

    ``window_samples``: one window of this length, cut at random, per record and epoch. A record shorter than
    that is padded with "not recorded", or refused. ``keep``: export the last weights, or those with the
    lowest loss on ``validation_folds``. ``online_probe``: a task that a quick ridge regression is tried on at each
    validation, on a few hundred records of ``validation_folds``, to watch the representation grow.
    """

    method: MethodSettings
    backbone: BackboneSettings
    folds: Folds
    validation_folds: tuple[int, ...] = ()
    window_samples: PositiveInt
    short_records: Literal["pad", "refuse"] = "refuse"
    normalise: Literal["none", "record", "record_lead", "lead"] = "lead"
    keep: Literal["last", "best"] = "last"
    online_probe: str | None = None

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        _disjoint(folds=self.folds, validation_folds=self.validation_folds)
        wishes = {"keep: best": self.keep == "best", "patience": self.patience, "online_probe": self.online_probe}
        for what, asked in wishes.items():
            if asked and not self.validation_folds:
                raise ValueError(f"{what} needs validation_folds")
        return self


Null = Literal["random", "uncalibrated"]
#: All of them, by name.
NULLS: tuple[Null, ...] = get_args(Null)


class Downstream(Settings):
    """One question asked of the representation: a task under a protocol, with its nulls beside it.

    ``store`` defaults to the run's. ``settings`` go to the protocol. Nulls: ``random`` is the untrained network with
    BatchNorm statistics of the pretraining records, ``uncalibrated`` has those it was made with. Mostly the first
    is the stronger one; where signals are of one scale it can be the second.
    """

    name: str
    task: str
    protocol: str = "linear_probe"
    train_folds: Folds
    validation_folds: tuple[int, ...] = ()
    test_folds: Folds
    store: str | None = None
    window_samples: PositiveInt
    stride_samples: PositiveInt
    nulls: tuple[Null, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _split(self) -> Self:
        _disjoint(train_folds=self.train_folds, validation_folds=self.validation_folds, test_folds=self.test_folds)
        return self


class RunConfig(Settings):
    """A recipe: what ``ecgtrain run`` reads, and stores with the run in its resolved form."""

    name: str
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    data: Data
    pretrain: Pretrain | None = None
    downstream: tuple[Downstream, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [question.name for question in self.downstream]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two downstream entries are called {', '.join(twice)}")
        return self


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML recipe, apply ``key.path=value`` overrides, check it; raises ConfigError in one line."""
    return parse(RunConfig, override(read_yaml(path), overrides), where=path)


def dump(config: RunConfig) -> str:
    """The resolved recipe as YAML; :func:`load` reads it back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _disjoint(**folds: tuple[int, ...]) -> None:
    names = list(folds)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = sorted(set(folds[one]) & set(folds[other]))
            if shared:
                raise ValueError(f"{one} and {other} share fold {', '.join(map(str, shared))}")
