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
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from ecgstore import ConfigError, Settings, override
from ecgstore.inner import name_own_file, nearest, occupant, own_file_sha256, parse, read_yaml
from ecgtrain import tasks
from ecgtrain.config.curves import Curve, CurveOf
from ecgtrain.config.names import Name
from ecgtrain.data.inherited import MOST_NETWORKS, SEVERAL, Joined, inherited_by, named_networks
from ecgtrain.data.settings import Data
from ecgtrain.data.values import EachOnce, FewFolds, Folds, WindowSamples
from ecgtrain.recipes import shipped


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
    if room == "ecgtrain.methods" and "of" in content:
        return parse(Joined, content)
    chosen: type[Settings] = occupant(room, str(content["name"])).Settings
    if "task" in content:  # what a method learns, where it learns one
        content = {**content, "task": tasks.written_out(content["task"])}
    return parse(chosen, content)


MethodSettings = Annotated[SerializeAsAny[Settings], BeforeValidator(partial(_settings_of, "ecgtrain.methods"))]
BackboneSettings = Annotated[SerializeAsAny[Settings], BeforeValidator(partial(_settings_of, "ecgtrain.backbones"))]


#: How much of a moving average is kept at each step.
Share = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Settings):
    """The optimiser; the defaults are the CPC paper's.

    ``adamw``: decoupled decay (Loshchilov & Hutter 2019). ``adam``: decay is added to the gradient. ``lars``:
    layer-wise rates for very large batches (You, Gitman & Ginsburg 2017), with ``betas[0]`` as its momentum and
    ``trust`` as its coefficient. ``decay`` weights leaves biases and the parameters of normalisations alone.

    ``lr``: the learning rate. ``weight_decay``: how strongly weights are drawn to zero.

    ``schedule`` is followed after ``warmup_steps`` of linear rise; ``cosine`` falls to zero at the last step.
    ``clip_norm`` bounds the norm of the whole gradient. With ``layer_decay`` below 1, each group of the backbone's
    layers, from the output down, learns at that times the rate of the one above it.
    """

    name: Literal["adamw", "adam", "lars"] = "adamw"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-3
    decay: Literal["all", "weights"] = "all"
    betas: tuple[Share, Share] = (0.9, 0.999)
    trust: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None
    layer_decay: float = Field(default=1.0, gt=0, le=1)


class Training(Settings):
    """A budget and how it is spent; training counts steps, of ``batch_size`` windows over all ranks.

    Exactly one of ``steps`` and ``epochs`` is given. ``accumulate``: each rank takes its slice of a batch in so many
    parts and adds up their gradients, for batches that don't fit into memory. ``precision`` bfloat16 and float16 run
    the networks under autocast, with weights and losses in float32; float16 scales the loss. ``compile`` lets
    ``torch.compile`` fuse the network, and goes on without where that fails. ``cuda_graphs``: a GPU plays back what a
    compiled network launches, recorded once, instead of being told anew at each step; it takes more memory, and the
    method's networks must get batches of one shape. ``sync_batchnorm``: statistics over all
    ranks; by default where the method needs them. ``patience``: stop after so many validations without a lower loss.
    ``optimiser``: how weights are changed, and how fast. ``log_every_steps``, ``validate_every_steps`` and
    ``checkpoint_every_steps``: after how many steps the loss is written down, the validation records are judged, and
    all is saved that a resumed run needs. ``trackers``: where the log goes besides ``metrics.jsonl``.
    """

    batch_size: PositiveInt
    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    optimiser: Optimiser = Optimiser()
    accumulate: PositiveInt = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    cuda_graphs: bool = False
    sync_batchnorm: bool | None = None
    patience: PositiveInt | None = None
    log_every_steps: PositiveInt = 20
    validate_every_steps: PositiveInt = 200
    checkpoint_every_steps: PositiveInt = 200
    trackers: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], EachOnce] = ("tensorboard",)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs must be given; null takes the other away")
        return self

    @model_validator(mode="after")
    def _graphs_are_compiled(self) -> Self:
        if self.cuda_graphs and not self.compile:
            raise ValueError("cuda_graphs are of compiled networks: set compile, too")
        return self

    def n_steps(self, steps_per_epoch: int) -> int:
        """The whole budget in steps."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * steps_per_epoch


class Pretrain(Training):
    """Learning without labels, on the records of ``folds``; null takes all records.

    ``window_samples``: one window of this length, cut at random, per record and epoch. ``short_records``: one that is
    shorter is padded with "not recorded", or refused. ``method``: what is learned. ``backbone``: the network that
    learns. ``validation_folds``: records that only watch. ``normalise``: windows are brought to mean 0 and spread 1,
    each as a whole (``record``), each lead of each by itself (``record_lead``), or each lead by the records of training
    (``lead``). ``keep``: export the last weights, or those with the lowest loss on ``validation_folds``.
    ``online_probe``: a task that a quick ridge regression is tried on at each validation, on a few hundred records of
    ``validation_folds``, to watch the representation grow.

    ``control: time_shuffle``: a negative control, which learns from windows whose samples are in a random order, all
    leads alike.

    ``init_from``: a run, or its export: begin with that backbone, under its passport, and count as seen whom it has
    seen. A list of two to four runs puts their networks side by side, and their features one after the other.
    ``backbone``, ``method``, ``window_samples`` and ``normalise`` are then its own where they are not given, and
    ``normalise`` is ``each`` for several networks: each has its own leads and its own way. With ``steps: 0`` nothing is
    trained, and the questions are put to that network as it is.
    """

    init_from: (
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2, max_length=MOST_NETWORKS)]
        | None
    ) = None
    steps: NonNegativeInt | None = None
    method: MethodSettings
    backbone: BackboneSettings
    folds: Folds | None
    validation_folds: FewFolds = ()
    window_samples: WindowSamples
    short_records: Literal["pad", "refuse"] = "refuse"
    normalise: Literal["none", "record", "record_lead", "lead", "each"] = "lead"
    control: Literal["none", "time_shuffle"] = "none"
    keep: Literal["last", "best"] = "last"
    online_probe: tasks.TaskSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, content: Any) -> Any:
        named = named_networks(content.get("init_from")) if isinstance(content, Mapping) else None
        if named is None:
            return content
        given = {key: value for key, value in content.items() if value is not None or key not in INHERITED}
        taken = inherited_by(named) if INHERITED - given.keys() else {}
        idle = {"folds": None, "batch_size": 64} if given.get("steps") == 0 else {}
        return {**idle, **taken, **given}

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.steps == 0 and self.init_from is None:
            raise ValueError("steps: 0 trains nothing, which is possible with init_from alone")
        if self.steps != 0 and isinstance(self.method, Joined):
            raise ValueError("several networks side by side are taken as they are: say steps: 0")
        if self.normalise == SEVERAL and self.init_from is None:
            raise ValueError("normalise: each is that of several networks, which init_from names")
        return self

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        if self.folds is None and self.validation_folds:
            raise ValueError("folds: null takes all records, and leaves none for validation_folds")
        _disjoint(folds=self.folds, validation_folds=self.validation_folds)
        wishes = {"keep: best": self.keep == "best", "patience": self.patience, "online_probe": self.online_probe}
        for what, asked in wishes.items():
            if asked and not self.validation_folds:
                raise ValueError(f"{what} needs validation_folds")
        return self

    @property
    def chooses_by_validation(self) -> bool:
        """Whether something is chosen by the validation records, by the run or by who looks at it."""
        return self.keep == "best" or self.patience is not None or self.online_probe is not None


#: What a network that a run begins with brings along.
INHERITED = frozenset({"backbone", "method", "window_samples", "normalise"})

Null = Literal["random", "uncalibrated", "shuffled"]
#: All of them, by name.
NULLS: tuple[Null, ...] = get_args(Null)
#: What an answer's pretraining is called where there is none: a network that learned from labels alone.
NO_PRETRAINING = "none"


class Downstream(Settings):
    """One question asked of the representation: a task under a protocol, with its nulls beside it.

    ``task``: its address, ``ptbxl/superdiagnostic``, or a mapping of its settings, ``{kind: regression, column:
    age_years}``. ``leave_out_site``: fit on the other sites and judge on this one; ``each`` asks the question once for
    every site. Folds of training and test may then be the same, or null, which takes all records. ``store`` defaults to
    the run's. ``split``: a table of `ecgstore split` for it; of the run's store, by default the run's. ``protocol``:
    how the question is put. ``train_folds``: what is fitted on, ``validation_folds``: what is chosen on,
    ``test_folds``: what is judged on. ``window_samples`` and ``stride_samples``: records are cut into windows of this
    length, one every so many samples. ``settings`` go to the protocol. ``nulls``: ``random`` is the untrained network
    with BatchNorm statistics of the pretraining records, ``uncalibrated`` has those it was made with. Mostly the first
    is the stronger one; where signals are of one scale it can be the second. ``shuffled`` is pretrained as the network
    itself is, on windows whose samples are in a random order: what it gains over ``random`` needs no ECG, and it takes
    as long to train.

    ``compare_to``: questions on the same test records, such as the one put to a network trained from scratch. Their
    scores are taken from this one's, on the same resamples of patients.

    ``allow_overlap``: judge although patients, records or known sets are on both sides of a split; the result says so.
    """

    name: Name
    task: tasks.TaskSettings
    protocol: str = "linear_probe"
    train_folds: Folds | None
    validation_folds: FewFolds = ()
    test_folds: Folds | None
    leave_out_site: Annotated[str, Field(min_length=1)] | None = None
    store: str | None = None
    split: str | None = None
    window_samples: WindowSamples
    stride_samples: WindowSamples
    nulls: Annotated[tuple[Null, ...], EachOnce] = ()
    compare_to: Annotated[tuple[Name, ...], EachOnce] = ()
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    allow_overlap: bool = False

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for name in ("train_folds", "test_folds"):
            if getattr(self, name) is None and self.leave_out_site is None:
                raise ValueError(f"{name}: null takes all records, which is possible with leave_out_site alone")
        if self.train_folds is None and self.validation_folds:
            raise ValueError("train_folds: null takes all records, and leaves none for validation_folds")
        _disjoint(train_folds=self.train_folds, validation_folds=self.validation_folds)
        if self.leave_out_site is None:
            for name in ("train_folds", "validation_folds"):
                _disjoint(**{name: getattr(self, name)}, test_folds=self.test_folds)
        return self


Seed = Annotated[NonNegativeInt, Field(lt=2**63)]


class RunConfig(Settings):
    """A recipe: what ``ecgtrain run`` reads, and stores with the run in its resolved form.

    ``name``: what the run is called in reports. ``seed``: what all that is random is drawn by. ``data``: the records.
    ``pretrain``: learning without labels; null where a question does all of the learning. ``downstream``: the
    questions, in order.

    ``seeds``: do everything once for each, in ``seeds/1`` and so on below the run; results are then means, with
    intervals over seeds and patients. ``curves``: questions asked over and over while one thing changes.
    """

    name: Name
    seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], Field(max_length=100), EachOnce] = ()
    data: Data
    pretrain: Pretrain | None = None
    downstream: tuple[Downstream, ...] = ()
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        names, called = {question.name for question in self.downstream}, [curve.called.lower() for curve in self.curves]
        for curve in self.curves:
            for name in filter(None, (*curve.questions, curve.reference)):
                if name not in names:
                    near = nearest(name, names)
                    hint = f"; did you mean {near}?" if near else ""
                    raise ValueError(
                        f"the curve {curve.called} asks {name}, and there is no such downstream entry{hint}"
                    )
            if curve.reference and curve.questions and curve.reference not in curve.questions:
                raise ValueError(f"the curve {curve.called} compares to {curve.reference}: name it in questions, too")
            if curve.reference and set(curve.questions or names) == {curve.reference}:
                raise ValueError(
                    f"the curve {curve.called} compares {curve.reference} to itself alone: "
                    "ask another question, too, or leave reference out"
                )
            self._refuse_incomparable(curve)
        if twice := sorted({name for name in called if called.count(name) > 1}):
            raise ValueError(f"two curves are called {', '.join(twice)}: give one another name")
        if self.curves and not self.downstream:
            raise ValueError("curves need a downstream entry to ask")
        return self

    def _refuse_incomparable(self, curve: CurveOf) -> None:
        """Scores are taken from each other on the same records alone."""
        by_name = {question.name: question for question in self.downstream}
        for name in curve.questions or by_name:
            if curve.reference is None:
                continue
            for key in ("task", "split", "test_folds", "leave_out_site", "store")[
                : 4 if curve.kind == "transfer" else 5
            ]:
                if getattr(by_name[name], key) != getattr(by_name[curve.reference], key):
                    raise ValueError(
                        f"the curve {curve.called} can't compare {name} to {curve.reference}: {key} differs"
                    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        # Some file systems tell no case apart.
        names = [question.name.lower() for question in self.downstream]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two downstream entries are called {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _calibrated(self) -> Self:
        nothing = self.pretrain is not None and self.pretrain.steps == 0 and self.pretrain.folds is None
        if nothing and any("random" in question.nulls for question in self.downstream):
            raise ValueError(
                "the null random is calibrated on the records of pretrain.folds: name folds, those of train_folds maybe"
            )
        return self

    @model_validator(mode="after")
    def _shuffled(self) -> Self:
        if self.pretrain is None or not any("shuffled" in question.nulls for question in self.downstream):
            return self
        if self.pretrain.init_from is not None:
            raise ValueError("the null shuffled begins with fresh weights: it can't stand beside init_from")
        if self.pretrain.control != "none":
            raise ValueError("the null shuffled is a network that is trained with control: time_shuffle, as this one")
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        by_name = {question.name: question for question in self.downstream}
        for question in self.downstream:
            for name in question.compare_to:
                if name == question.name or name not in by_name:
                    near = nearest(name, by_name.keys() - {question.name})
                    hint = f"; did you mean {near}?" if near else ""
                    raise ValueError(f"{question.name} can't be compared to {name}: there is no other such entry{hint}")
                if name in NULLS or name == NO_PRETRAINING:
                    raise ValueError(f"an entry that others are compared to can't be called {name}")
                for key in ("task", "store", "split", "test_folds", "leave_out_site"):
                    if getattr(question, key) != getattr(by_name[name], key):
                        raise ValueError(f"{question.name} can't be compared to {name}: {key} differs")
        return self


#: What a run's directory calls its recipe, and files that stand in no other directory.
RESOLVED, _OF_A_RUN = "config.yaml", ("preprocessing.json", "seen.parquet", "metrics.jsonl")


def find(recipe: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a shipped one such as ``small/cpc``.

    Raises ConfigError where it is neither, naming the nearest.
    """
    path, known = Path(recipe), shipped()
    if path.is_file():
        return path
    if str(recipe) in known:
        return known[str(recipe)]
    near = nearest(str(recipe).removesuffix(".yaml").removeprefix("recipes/"), known)
    if near is None and path.suffix:
        return path  # a file that isn't there, and is said to be missing by whoever reads it
    raise ConfigError(
        "there is no such recipe: neither a file nor one that comes with ecgtrain",
        where=recipe,
        fix=f"did you mean {near}?" if near else "`ecgtrain recipes` lists those that come with it",
    )


def load(recipe: str | Path, overrides: Iterable[str] = (), own_files: Iterable[str | Path] = ()) -> RunConfig:
    """Read a recipe, a YAML file or one of the shipped ones (:func:`find`), and apply ``key.path=value`` overrides.

    ``extends:`` in a recipe names another one, whose settings it has where it says nothing else (:func:`_whole`); so
    does ``extends=NAME`` among the overrides, in its place.
    Tasks and protocols that stand in files of their own may be run where ``recipe`` names them, or ``own_files`` does.
    The recipe of a run's directory names none: it may have come from elsewhere. Raises ConfigError in one line.
    """
    path, overrides = find(recipe), tuple(overrides)
    base = [one for one in overrides if one.partition("=")[0] == "extends"]
    content, is_of_a_run = _whole(path, override({}, base))
    config = parse(RunConfig, override(content, (one for one in overrides if one not in base)), where=path)
    for file in own_files:
        name_own_file(file)
    # What stands in an override was written by whoever gave the command.
    typed = {text for one in overrides for text in _texts(override({}, [f"_={one.partition('=')[2]}"]))}
    for kind, name in _files_of_code(config):
        if not is_of_a_run or any(one == name or one.startswith(f"{name}/") for one in typed):
            name_own_file(name, kind)
        elif own_file_sha256(name) is None:
            raise ConfigError(
                f"the recipe of a run names a {kind} file, which is not run unless you name it yourself",
                where=path,
                got=name,
                fix=f"if you trust it: --own-file {name}",
            )
    return config


def _whole(path: Path, instead: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """What a recipe says together with the one it extends, and whether one of them is that of a run.

    ``instead``: ``extends`` as it was given on the command line, if it was.

    Sections are merged key by key; lists, and sections of another ``name`` or ``kind``, take the place of the other's.
    """
    content, is_of_a_run = read_yaml(path), _is_of_a_run(path)
    if not is_of_a_run:
        content = _with_files_beside(content, path.parent)
    named = {"extends": content.pop("extends", None), **instead}["extends"]
    if named is None:
        return content, is_of_a_run
    if not isinstance(named, str) or not named:
        raise ConfigError("extends names one other recipe", where=path, got=repr(named)[:100])
    beside = path.parent / named
    base = beside if beside.is_file() else find(named)
    below = read_yaml(base)
    if "extends" in below:
        raise ConfigError(
            "a recipe that is extended can't extend another one",
            where=path,
            got=f"{named}, which extends {below['extends']}",
            fix=f"write it out whole, ecgtrain show {named} > whole.yaml, and extend whole.yaml",
        )
    base_is_of_a_run = _is_of_a_run(base)
    if not base_is_of_a_run:
        below = _with_files_beside(below, base.parent)
    return _extended(below, content), is_of_a_run or base_is_of_a_run


def _extended(below: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in content.items():
        other = below.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            is_same = all(value.get(name, other.get(name)) == other.get(name) for name in ("name", "kind"))
            merged[key] = _extended(other, value) if is_same else value
        else:
            merged[key] = value
    return merged


def _texts(value: Any) -> Iterable[str]:
    """All texts in a value of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _with_files_beside(content: Any, folder: Path, key: str = "") -> Any:
    """A recipe in which files of code that are not in the working directory are looked for beside the recipe."""
    if isinstance(content, Mapping):
        return {name: _with_files_beside(value, folder, str(name)) for name, value in content.items()}
    if isinstance(content, list):
        return [_with_files_beside(value, folder, key) for value in content]
    if not isinstance(content, str) or key not in ("task", "online_probe", "protocol", "kind"):
        return content
    name = content if content.endswith(".py") else (tasks.own_file_of(content) or "")
    if not name or Path(name).expanduser().is_file() or not (folder / name).is_file():
        return content
    return str(folder / name) + content[len(name) :]


def _files_of_code(config: RunConfig) -> list[tuple[str, str]]:
    """Tasks and protocols that are files, not names of a room."""
    pretrain = config.pretrain
    asked = [] if pretrain is None else [pretrain.online_probe, getattr(pretrain.method, "task", None)]
    asked += [question.task for question in config.downstream]
    files = [tasks.own_file_of(one) for one in asked if one is not None]
    found = [("task", name) for name in files if name is not None]
    found += [("protocol", question.protocol) for question in config.downstream if question.protocol.endswith(".py")]
    return list(dict.fromkeys(found))


def _is_of_a_run(path: Path) -> bool:
    """Whether a recipe is the one that a run has written down, wherever the run came from."""
    path = path.resolve()
    return path.name == RESOLVED or any((folder / name).exists() for folder in path.parents for name in _OF_A_RUN)


def dump(config: RunConfig) -> str:
    """The resolved recipe as YAML; :func:`load` reads it back equal."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Written, sort_keys=False, allow_unicode=True)


class _Written(yaml.SafeDumper):
    """Equal parts are written out, each where it stands: no aliases, which :func:`load` doesn't read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _disjoint(**given: tuple[int, ...] | None) -> None:
    folds = {name: its or () for name, its in given.items()}
    names = list(folds)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = sorted(set(folds[one]) & set(folds[other]))
            if shared:
                raise ValueError(f"{one} and {other} share fold {', '.join(map(str, shared))}")
