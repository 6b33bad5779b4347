"""One recipe from beginning to end: select → train → export → judge, nulls beside → report, in one run directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ecgstore import ConfigError, EcgError, Store, open_shared
from ecgstore.inner import name_own_file, patients_in_words
from ecgtrain import distributed
from ecgtrain.config import RESOLVED, RunConfig, dump
from ecgtrain.data.seen import read_seen, withdrawn_since
from ecgtrain.data.selection import folds_of_nobody, open_under, refuse_absent_folds
from ecgtrain.deployment.export import CARD, refuse_unfinished, write_export
from ecgtrain.deployment.model import Ensemble, Model, load_models
from ecgtrain.deployment.onnx_file import on_millivolts, write_onnx
from ecgtrain.deployment.predict import Predictions, predict, write_predictions
from ecgtrain.deployment.replay import ExtraLeads
from ecgtrain.errors import CheckpointError, StoppedError
from ecgtrain.evaluation.answers import refuse_other_questions
from ecgtrain.evaluation.curve_results import CurveResult, told, write_tables
from ecgtrain.evaluation.curves import Drawn, draw_curves, refuse_impossible_curves, refuse_unfair_curves, task_of
from ecgtrain.evaluation.heads import keep_own_files
from ecgtrain.evaluation.judge import Answered, judge_all, refuse_unanswerable, refuse_unfair
from ecgtrain.evaluation.over_seeds import over_seeds
from ecgtrain.evaluation.questions import questions, store_of
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.seeds_elsewhere import judge_elsewhere
from ecgtrain.reporting.card import card
from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts, TermsFacts
from ecgtrain.reporting.report import loss_curves, merge, read_report, with_caveats, write_report
from ecgtrain.reporting.worst import Worst, with_pages, worst_of
from ecgtrain.representation.embed import Embedded, Per, embed
from ecgtrain.representation.export import Trained, export_backbone, load_backbone
from ecgtrain.representation.initial import load_initial, write_taken_over
from ecgtrain.representation.nulls import SHUFFLED, shuffled
from ecgtrain.representation.online import online_probe
from ecgtrain.training import loop
from ecgtrain.training.claim import claimed, looked_at
from ecgtrain.training.files import TABLE, plain, read_json, refuse_strange_files, refuse_taken, write_text
from ecgtrain.training.initial import TakenOver, take_over
from ecgtrain.training.layout import ENVIRONMENT, NULLS, SEEDS, SEEN, curve, run_of_seed
from ecgtrain.training.log import read_metrics, train_seconds
from ecgtrain.training.pinned import with_pinned_stores
from ecgtrain.training.prepare import Prepared, prepare, pretrain_of
from ecgtrain.training.pretrain import Attempt, pretrain

#: Called with one line about what is being done.
Say = Callable[[str], None]


def run(
    config: RunConfig,
    run_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: loop.Progress | None = None,
    say: Say = lambda _: None,
    until: Callable[[], AbstractContextManager[loop.ShouldStop]] | None = None,
) -> Report | None:
    """Do all that a recipe says, into ``run_dir``; returns the report that was written there.

    Under ``torchrun`` all ranks pretrain; the first goes on to judge, the others return None. ``until`` is called
    and entered meanwhile, and gives the function that says when to stop
    (:func:`ecgtrain.training.stopping.told_to_stop`): then StoppedError is raised, and what is whole by then is kept.
    Several seeds are run one after the other, each in a directory of its own below; several ranks can't do that.

    What can be known to be wrong is refused before any training: tasks that don't exist, stores that can't be
    opened, test patients who would be seen. The directory is this process' own from here to the end, and a refusal
    leaves every file in it as it was. Raises ClaimedError where another process is at work there, and what
    :func:`learn` and :func:`ecgtrain.evaluation.judge.judge_all` raise.
    """
    run_dir = Path(run_dir)
    config = with_pinned_stores(config, run_dir, resume=resume)
    refuse_unanswerable(config)
    refuse_impossible_curves(config)
    if not config.seeds:
        ran = _run_one(config, run_dir, device, resume, progress, say, until)
        return None if ran is None else ran.report
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "several seeds are run by one process, one after the other",
            where=config.name,
            got=f"{os.environ['WORLD_SIZE']} processes",
            fix="run each seed by itself under torchrun: --set seeds=[] --set seed=1",
        )
    with claimed(run_dir, of_run=True):
        if (run_dir / RESOLVED).exists():
            raise _other_run(run_dir, "a run of one seed")
        whole = []
        for number, seed in enumerate(config.seeds, start=1):
            say(f"seed {seed}: {number} of {len(config.seeds)}")
            one = config.model_copy(update={"seed": seed, "seeds": ()})
            ran = _run_one(one, run_of_seed(run_dir, seed), device, resume, progress, say, until)
            assert ran is not None  # there is one rank alone
            whole.append(ran)
        results = over_seeds(config, [ran.answered for ran in whole])
        curves = tell_curves(config, run_dir, [ran.drawn for ran in whole])
        # One stands for all: but for its seed each was made alike, and has a report of its own.
        about = whole[0].report.runs[0].model_copy(update={"settings": dump(config)})
        caveats = tuple(dict.fromkeys(text for ran in whole for text in ran.own_caveats))
        report = Report(title=config.name, results=results, asked_over=curves, caveats=caveats, runs=(about,))
        return write_report(run_dir, report, worst_of(run_dir, results))


def _other_run(run_dir: Path, what: str) -> ConfigError:
    """What is said where a report would take the place of that of another kind of run."""
    return ConfigError(f"{what} stands in the directory already", where=run_dir, fix="choose another directory")


class Ran(NamedTuple):
    """What came of one seed: its report, and the scores behind it. ``own_caveats`` follow from no score."""

    report: Report
    answered: Answered
    drawn: tuple[Drawn, ...]
    own_caveats: tuple[str, ...]


def _run_one(
    config: RunConfig,
    run_dir: Path,
    device: torch.device | str,
    resume: bool,
    progress: loop.Progress | None,
    say: Say,
    until: Callable[[], AbstractContextManager[loop.ShouldStop]] | None,
) -> Ran | None:
    with ExitStack() as until_the_end:
        should_stop = until_the_end.enter_context((until or _never)())
        with distributed.ranks(device) as here:
            until_the_end.enter_context(claimed(run_dir, of_run=True))
            if (run_dir / SEEDS).exists():
                raise _other_run(run_dir, "a run of several seeds")
            if resume:
                refuse_strange_files(run_dir)
                refuse_other_questions(config, run_dir)
            announce(config, run_dir, say)
            made = _made(config, run_dir, here)
            refuse_unfair(config, made)
            refuse_unfair_curves(config, made)
            attempt = Attempt(here, resume, progress, say, should_stop)
            trained = _trained(config, made, run_dir, attempt)
            if null := shuffled(config):
                say(f"once more on windows whose samples are shuffled: the null {SHUFFLED}")
                _learn(null, run_dir / NULLS / SHUFFLED, attempt)
            if distributed.rank() == 0:
                keep_own_files([question.task for question in config.downstream], run_dir)
            if distributed.rank() != 0:
                return None
        go_on = partial(_go_on, should_stop, run_dir)
        tell, say = _told(progress, go_on), _said(say, go_on)
        answered = judge_all(config, trained, run_dir, device=device, say=say, tell=tell, resume=resume)
        drawn = draw_curves(config, trained, run_dir, device=device, say=say, tell=tell, go_on=go_on, resume=resume)
        curves = tell_curves(config, run_dir, [drawn])
        report = report_of_run(config, run_dir, made, trained, answered.results, curves, device)
        written = write_report(run_dir, report, worst_of(run_dir, report.results))
        return Ran(written, answered, drawn, report.caveats)


def tell_curves(config: RunConfig, run_dir: Path, drawn_s: Sequence[Sequence[Drawn]]) -> tuple[CurveResult, ...]:
    """The curves of the runs of one or several seeds; each is also written as a table below ``run_dir``."""
    found = []
    for of_runs in zip(*drawn_s, strict=True):
        result = told(of_runs, task_of(config, of_runs[0].curve), config.seeds, config.seed)
        write_tables(result, curve(run_dir, result.name))
        found.append(result)
    return tuple(found)


def _never() -> AbstractContextManager[loop.ShouldStop]:
    return nullcontext(lambda: None)


def _go_on(should_stop: loop.ShouldStop, run_dir: Path) -> None:
    """Raise StoppedError where there is a reason to stop. Nothing but whole answers and points is ever in the run."""
    if reason := should_stop():
        raise StoppedError(
            f"the questions were stopped: {reason}",
            where=run_dir,
            fix="run the same command with --resume to go on; what is answered is kept",
        )


def _told(progress: loop.Progress | None, go_on: Callable[[], None]) -> Callable[[int, int], None]:
    """``progress`` as a protocol tells of it: without figures."""

    def tell(done: int, total: int) -> None:
        go_on()
        if progress is not None:
            progress(done, total, {})

    return tell


def _said(say: Say, go_on: Callable[[], None]) -> Say:
    """Before each question: not every protocol tells how far it is."""

    def said(text: str) -> None:
        go_on()
        say(text)

    return said


def learn(
    config: RunConfig,
    run_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: loop.Progress | None = None,
    say: Say = lambda _: None,
    should_stop: loop.ShouldStop = lambda: None,
) -> Trained:
    """The first half of a run: select → train → export; returns the exported backbone and its passport.

    Of several ranks the first exports; the others return the last weights. Raises what
    :func:`ecgtrain.training.prepare.prepare` and :func:`ecgtrain.training.pretrain.pretrain` raise.
    """
    run_dir = Path(run_dir)
    config = with_pinned_stores(config, run_dir, resume=resume)
    return _learn(config, run_dir, Attempt(device, resume, progress, say, should_stop))


def _learn(config: RunConfig, run_dir: Path, attempt: Attempt) -> Trained:
    with claimed(run_dir, of_run=True):
        return _trained(config, _made(config, run_dir, attempt.device), run_dir, attempt)


def _made(config: RunConfig, run_dir: Path, device: torch.device | str) -> Prepared | TakenOver:
    """All that a recipe pretrains, or the network that it takes over as it is."""
    initial = load_initial(config, run_dir)
    if initial is not None and pretrain_of(config).steps == 0:
        return take_over(config, initial)
    return prepare(config, device, initial)


def _trained(config: RunConfig, made: Prepared | TakenOver, run_dir: Path, attempt: Attempt) -> Trained:
    if isinstance(made, TakenOver):
        return write_taken_over(config, made, run_dir, attempt.device, attempt.resume)
    pretrain(config, made, run_dir, attempt, online_probe(config, made, attempt.device))
    return export_backbone(config, made, run_dir, attempt.device)


def announce(config: RunConfig, run_dir: Path, say: Say) -> None:
    """Say once what is about to be done."""
    if distributed.rank() == 0:
        store, method = open_shared(config.data.store), pretrain_of(config).method.model_dump()["name"]
        ranks = f" on {distributed.world()} ranks" if distributed.world() > 1 else ""
        say(f"{config.name}: {method} on {store.path} ({store.n_records} records), into {run_dir}{ranks}")


def evaluate_store(
    run_dir: str | Path,
    store_path: str,
    *,
    split: str | Path | None = None,
    folds: Sequence[int] | Literal["all"] | None = None,
    names: Sequence[str] = (),
    allow_overlap: bool = False,
    own_files: Sequence[str | Path] = (),
    out: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Report:
    """Judge the trained heads of a run on another store; writes a report into ``out`` if that is given.

    Of a run of several seeds: the mean over seeds, and what all say together. ``own_files``: code that the heads' tasks
    may be; what a run itself names is never run. Raises ClaimedError where another process is at work in one of the
    directories, and what :func:`ecgtrain.evaluation.seeds_elsewhere.judge_elsewhere` raises.
    """
    run_dir = Path(run_dir)
    for file in own_files:
        name_own_file(file)
    with ExitStack() as until_the_end:
        if out is not None:
            until_the_end.enter_context(claimed(Path(out)))
        if out is None or Path(out).resolve() != run_dir.resolve():
            until_the_end.enter_context(looked_at(run_dir))
        refuse_strange_files(run_dir)
        results = judge_elsewhere(
            run_dir, store_path, split=split, folds=folds, names=names, allow_overlap=allow_overlap, device=device
        )
        report = Report(title=f"{run_dir.resolve().name} on {Path(store_path).name}", results=results)
        return with_caveats(report) if out is None else write_report(out, report)


def export_run(
    run_dir: str | Path, out: str | Path, *, name: str | None = None, onnx: bool = False
) -> Model | Ensemble:
    """Write a trained head and all it needs into the new folder ``out``: a small run with a card.

    Of a run of several seeds: the heads of all, which are asked together. ``name``: which head, where the run has
    several. ``onnx``: also as one ONNX file. Returns the head as it was read. Raises ClaimedError where another process
    is at work in one of the directories; CheckpointError where the run is unfinished or has no such head; ConfigError
    where something stands at ``out``; MissingExtra for ``onnx``.
    """
    run_dir, out = Path(run_dir), Path(out)
    with claimed(out), looked_at(run_dir):
        refuse_strange_files(run_dir)
        model = load_models(run_dir, name)
        if len(model.models) == 1:
            model = model.models[0]
        refuse_unfinished(model)
        report = _report_on(model, model.run_dir)
        network = on_millivolts(model) if onnx else None

        def more(folder: Path) -> None:
            # Where stores stood on this machine is nobody else's business, and means nothing there.
            write_text(folder / CARD, card(report, model.head, model.passport))
            write_report(folder, report.model_copy(update={"runs": ()}))
            if network is not None:
                write_onnx(network, folder)

        of_each = [_report_on(one, one.run_dir).results[0] for one in model.models]
        write_export(model, report.results[0], of_each, out, more)
        return model


def _report_on(model: Model | Ensemble, run_dir: Path) -> Report:
    """What the run's report says of one head and its nulls, the head's own result first."""
    try:
        report = read_report(run_dir)
    except ConfigError as error:
        raise CheckpointError(
            "the run is unfinished: it has no report", where=run_dir, fix="go on with `ecgtrain run --resume`"
        ) from error
    head, is_of_all = model.head, isinstance(model, Ensemble)

    def is_own(result: Result) -> bool:
        return result.pretraining == head.pretraining and bool(result.ensemble_of) == is_of_all

    of_question = [result for result in report.results if result.name == head.name]
    results = sorted(of_question, key=lambda result: not is_own(result))
    if not results or not is_own(results[0]):
        raise CheckpointError("the run's report has no result of this head", where=run_dir, expected=head.name)
    named = tuple(result.model_copy(update={"store": Path(result.store).name}) for result in results)
    return with_caveats(Report(title=head.name, results=named, runs=report.runs[:1]))


def predict_records(
    path: str | Path,
    recordings: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    source: str | None = None,
    extra_leads: ExtraLeads | None = None,
    workers: int = 1,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Predictions:
    """Ask a trained head, of a run or an export, about a store or about raw recordings; writes a table to ``out``.

    Raises ClaimedError where another process writes into the run, ConfigError where ``out`` is taken, and what
    :func:`ecgtrain.deployment.predict.predict` raises.
    """
    refuse_taken(Path(out), overwrite=overwrite, suffix=TABLE)
    with looked_at(Path(path)):
        refuse_strange_files(Path(path))
        model = load_models(path, name, device=device)
        predictions = predict(
            model, recordings, source=source, extra_leads=extra_leads, workers=workers, progress=progress
        )
    write_predictions(predictions, out, overwrite=overwrite)
    return predictions


def embed_store(
    path: str | Path,
    store_path: str,
    out: str | Path,
    *,
    folds: Sequence[int] | None = None,
    per: Per = "record",
    window_s: float | None = None,
    stride_s: float | None = None,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Write the features of a store's records by the network of a run or an export; see
    :func:`ecgtrain.representation.embed.embed`.
    """
    refuse_taken(Path(out), overwrite=overwrite, suffix=TABLE)
    with looked_at(Path(path)):
        refuse_strange_files(Path(path))
        trained = load_backbone(path, device=device)
    store = open_shared(store_path)
    refuse_absent_folds(folds, [store], "folds")
    return embed(
        trained,
        store,
        store.select(folds=folds),
        out,
        per=per,
        window_s=window_s,
        stride_s=stride_s,
        device=device,
        tell=tell,
        overwrite=overwrite,
    )


def merge_reports(
    runs: Sequence[str | Path], out: str | Path, withdrawn: Sequence[str] = (), n_pages: int | None = None
) -> Report:
    """Put the results of several runs side by side, in a report in the folder ``out``.

    The records that they are most wrong about are shown there, ``n_pages`` of them as ECG pages; by default six, and
    none of sources that may not be passed on.

    Where records that a run has seen were withdrawn since from its store, or from one of the stores ``withdrawn``, that
    is one of the caveats.

    Raises ClaimedError where another process is at work there, and ConfigError where a run has no report.
    """
    with claimed(Path(out)):
        reports = [read_report(path) for path in runs]
        merged = merge(reports)
        successors = [open_shared(path) for path in withdrawn]
        caveats: list[str] = []
        worst: list[Worst] = []
        for path, report, about in zip(map(Path, runs), reports, merged.runs, strict=True):
            caveats += _seen_and_withdrawn(path, about.name, report, successors)
            worst += [one._replace(run=about.name) for one in worst_of(path, report.results)]
        merged = merged.model_copy(update={"caveats": tuple(dict.fromkeys(caveats))})
        return write_report(out, merged, with_pages(worst, merged.results, n_pages))


def _seen_and_withdrawn(run_dir: Path, name: str, report: Report, successors: Sequence[Store]) -> Iterator[str]:
    """What a run has seen that was withdrawn since, a sentence for each store that says so."""
    stores = list(successors)
    for about in report.runs:
        # The successor may have taken the place of the store; where none is, or another kind, nothing is known.
        if about.store.path and "://" not in about.store.path:
            with suppress(EcgError):
                stores.append(open_shared(about.store.path))
    if not any("withdrawn" in store.attributes for store in stores):
        return
    tables = []
    for path in sorted(run_dir.rglob(SEEN)):
        try:
            tables.append(read_seen(path))
        except CheckpointError:
            yield f"{name}: whom it has seen can't be told, and so not whether somebody has withdrawn since."
    for store in {store.fingerprint: store for store in stores}.values():
        if said := withdrawn_since(tables, store):
            yield f"{name} has seen what was withdrawn from {Path(store.path).name} since: {said}."


def report_of_run(
    config: RunConfig,
    run_dir: Path,
    made: Prepared | TakenOver,
    trained: Trained,
    results: Sequence[Result],
    curves: Sequence[CurveResult],
    device: torch.device | str,
) -> Report:
    """The results together with what is told of the run that they are of."""
    settings, store = pretrain_of(config), open_shared(config.data.store)
    lines, environment = read_metrics(run_dir), read_json(run_dir / ENVIRONMENT)
    about = About(
        run=RunFacts(
            name=config.name,
            method=settings.method.model_dump()["name"],
            backbone=settings.backbone.model_dump()["name"],
            n_parameters=sum(parameter.numel() for parameter in trained.backbone.parameters()),
            n_records=sum(len(part.rows) for part in made.parts) - len(environment.get("records_left_out", [])),
            folds=settings.folds or (),
            steps=max((line.step for line in lines if line.split == "train"), default=0),
            batch_size=settings.batch_size,
            seconds=train_seconds(lines, settings.batch_size),
            device=environment.get("device", str(device)),
            seed=config.seed,
        ),
        store=_facts_of(store),
        curves=loss_curves(lines),
        settings=dump(config),
        environment=environment,
    )
    return Report(
        title=config.name,
        results=tuple(results),
        asked_over=tuple(curves),
        caveats=(*_begun(config, made), *_left_out(environment), *_of_nobody(config)),
        runs=(about,),
    )


def _begun(config: RunConfig, made: Prepared | TakenOver) -> tuple[str, ...]:
    """A sentence on the network that a run began with, if there was one."""
    settings = pretrain_of(config)
    if settings.init_from is None:
        return ()
    if settings.steps == 0:
        if not isinstance(settings.init_from, str):
            whose = " and ".join(settings.init_from)
            return (f"The networks of {whose} stand side by side, as they were: this run pretrained nothing.",)
        return (f"The network is that of {settings.init_from}, as it was: this run pretrained nothing.",)
    said: tuple[str, ...] = (f"Pretraining began with the network of {settings.init_from}.",)
    n_taught, n = made.taught_before() if isinstance(made, Prepared) else (0, 0)
    if n_taught:
        said += (f"{n_taught} of {n} records that only watch pretraining taught that network: their loss is too low.",)
    return said


def _of_nobody(config: RunConfig) -> tuple[str, ...]:
    """Sentences on folds that are named and that no record is in, if there are any."""
    settings, data = pretrain_of(config), config.data
    stores = [open_under(data.store, data.split), *(open_under(one.path, one.split) for one in data.stores)]
    said: list[str] = []
    for name in ("folds", "validation_folds"):
        said += folds_of_nobody(getattr(settings, name), stores, f"pretrain.{name}")
    for question in questions(config):
        for name in ("train_folds", "validation_folds", "test_folds"):
            said += folds_of_nobody(getattr(question, name), [store_of(question, config)], f"{question.name}.{name}")
    return tuple(said)


def _facts_of(store: Store) -> StoreFacts:
    noise = store.attributes.get("noise") or store.recipe.get("noise")
    return StoreFacts(
        **({"noise": noise} if noise else {}),
        path=store.path,
        fingerprint=store.fingerprint,
        n_records=store.n_records,
        fs_hz=store.fs_hz,
        leads=store.leads,
        recipe=store.recipe,
        patients=patients_in_words(store),
        terms=tuple(TermsFacts(**plain(terms)) for terms in store.terms),
    )


def _left_out(environment: dict[str, list[str]]) -> tuple[str, ...]:
    """A sentence on the records that could not be read, if there were any."""
    names = environment.get("records_left_out", [])
    if not names:
        return ()
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return (f"Training went on without {len(names)} records that can't be read: {shown}.",)
