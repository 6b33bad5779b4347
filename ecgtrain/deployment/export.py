"""A trained head and all it needs in one folder: a small run, which `evaluate`, `predict` and `embed` read.

card.md              for people                          model.json          classes, thresholds, windows
preprocessing.json   the passport                        seen.parquet        whom pretraining has seen
report.json, .html   what was found                      export/             the network
downstream/<question>/<pretraining>/                     the head, its result, whom it has seen
own/                 where the task is a file of code: a copy, which nobody runs unasked
model.onnx           where it was asked for
seeds/<seed>/        of a run of several seeds, in the place of export/, downstream/ and own/: such a folder of each
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ecgstore import ConfigError
from ecgtrain.data.seen import read_seen
from ecgtrain.deployment.model import Ensemble, Model, load_models
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.heads import own_copy
from ecgtrain.evaluation.results import Result
from ecgtrain.training.files import write_json
from ecgtrain.training.layout import EXPORT, HEAD, HEAD_ABOUT, OWN, PASSPORT, QUESTION, RESULT, SEEN

CARD, ABOUT = "card.md", "model.json"

#: Writes what else belongs into the folder, such as a report and a card.
More = Callable[[Path], None]


def refuse_unfinished(model: Model | Ensemble) -> None:
    """Raise CheckpointError unless the head's answer is whole: its result, how it was asked, whom it has seen."""
    if (model.run_dir / ABOUT).exists():
        raise CheckpointError("this is an export already", where=model.run_dir, fix="copy the folder")
    for one in model.models:
        missing = [name for name in (RESULT, QUESTION, SEEN) if not (one.answer / name).exists()]
        if missing:
            raise CheckpointError(
                "the run is unfinished: this question is not answered yet",
                where=one.answer,
                expected=", ".join(missing),
                fix="go on with `ecgtrain run --resume`",
            )


def write_export(model: Model | Ensemble, result: Result, of_each: Sequence[Result], out: Path, more: More) -> None:
    """Write the folder ``out``, whole or not at all; what was written is loaded once before it gets its name.

    ``result``: the head's own. ``of_each``: those of the seeds that are asked together, of a single head its own once
    more. Raises ConfigError where something stands at ``out`` or the disk refuses, and CheckpointError where a part of
    the run is missing.
    """
    for one in model.models:
        read_seen(one.run_dir / SEEN)
    with _published(out) as aside:
        for one, its in zip(model.models, of_each, strict=True):
            folder = aside / one.run_dir.relative_to(model.run_dir)
            _write_one(one, its, folder)
            if folder != aside:
                write_json(folder / ABOUT, _about(one, its))
        write_json(aside / PASSPORT, model.passport.model_dump(mode="json"))
        write_json(aside / ABOUT, _about(model, result))
        more(aside)
        load_models(aside, model.head.name)


def _write_one(model: Model, result: Result, folder: Path) -> None:
    """The network, the head and whom both have seen."""
    shutil.copytree(model.run_dir / EXPORT, folder / EXPORT, symlinks=True)
    shutil.copyfile(model.run_dir / SEEN, folder / SEEN)
    write_json(folder / PASSPORT, model.passport.model_dump(mode="json"))
    answer = folder / model.answer.relative_to(model.run_dir)
    answer.mkdir(parents=True)
    for name in (HEAD, HEAD_ABOUT, SEEN):
        shutil.copyfile(model.answer / name, answer / name)
    write_json(answer / RESULT, result.as_json())
    _copy_code(model, folder)


def _about(model: Model | Ensemble, result: Result) -> dict[str, object]:
    """What a program must know that loads the weights or the ONNX file by itself."""
    head, passport = model.head, model.passport
    titles = {name: one.title for name, one in result.per_class.items()}
    return {
        "question": head.name,
        "task": result.task,
        "protocol": head.protocol,
        "pretraining": head.pretraining,
        **({"mean_of_seeds": [one.head.seed for one in model.models]} if isinstance(model, Ensemble) else {}),
        "kind": head.kind,
        **({"unit": result.unit} if result.unit else {}),
        "classes": [
            {"name": name, "title": titles.get(name, ""), "threshold": head.thresholds.get(name)}
            for name in head.classes
        ],
        "leads": list(passport.leads),
        "fs_hz": passport.fs_hz,
        "window_samples": head.window_samples,
        "stride_samples": head.stride_samples,
        "sha256": model.sha256,
    }


def _copy_code(model: Model, aside: Path) -> None:
    for name, sha256 in model.head.own_files.items():
        code = own_copy(model.run_dir, Path(name).name, sha256)
        if code.is_file():
            (aside / OWN).mkdir(exist_ok=True)
            shutil.copyfile(code, aside / OWN / Path(name).name)


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes it once the block ends well, and is gone otherwise."""
    if out.exists() or out.is_symlink():
        raise ConfigError("something stands there already", where=out, fix="name another folder, or remove it")
    aside = out.absolute().with_name(f".{out.absolute().name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed: whoever writes here has the lock
        aside.mkdir(parents=True)
        yield aside
        for path in (*aside.rglob("*"), aside):
            _flush(path)
        aside.rename(out)
    except OSError as error:
        raise ConfigError("the export can't be written", where=out, got=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
