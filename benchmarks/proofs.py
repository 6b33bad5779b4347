"""What each method learns from a small corpus, beside untrained networks and the supervised control.

Every small recipe is run with every seed (or found finished below ``--out``), without its own questions. Then linear
probes are fitted on its features, on those of the untrained network with calibrated BatchNorm (``random``), on those
of the untrained network as it was made (``uncalibrated``), and on five numbers per lead: five superclasses with all
labels and with a tenth of the patients, drawn ``--draws`` times, and all statements with all labels. Folds are the
recipe's. A value is a mean over seeds and draws; its interval comes from 1,000 resamples of test patients, the same for
all, so that a difference is taken resample by resample.

    python benchmarks/proofs.py --store ptbxl.ecg --out runs/proofs [--method simclr] [--seeds 1,2] [--json]

Killed, it goes on where it was. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ecgstore import open_store
from ecgstore.inner import keep_freed_memory
from ecgtrain import config, recipes, tasks
from ecgtrain.backbones.layers.features import Features
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.protocols import Context
from ecgtrain.evaluation.protocols.linear_probe import Settings
from ecgtrain.evaluation.splits import Split
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.representation.extract import window_features
from ecgtrain.representation.nulls import random_backbone
from ecgtrain.run import learn
from ecgtrain.scoring import metrics
from ecgtrain.scoring.bootstrap import resampled_classes
from ecgtrain.training.log import read_metrics, train_seconds
from ecgtrain.training.prepare import pretrain_of

RECIPES = recipes.RECIPES / "small"
SUPER, ALL = "ptbxl/superdiagnostic", "ptbxl/all"
#: What of a method's parts tells best whether it has learned its own task.
PRETEXT = {
    "byol": "byol",
    "cpc": "per_term_nats",
    "cpc_s4": "per_term_nats",
    "jepa": "relative_l1",
    "lcd": "loss",
    "mae": "masked_mse",
    "simclr": "nt_xent",
    "stj": "lead_nats",
    "supervised": "loss",
    "swav": "swav",
}


@dataclass(frozen=True)
class Ask:
    """One probe: a task, the share of the training patients whose labels are used, and the draw of these."""

    task: str
    fraction: float
    draw: int

    @property
    def key(self) -> str:
        """The question, whatever the draw."""
        return f"{self.task} {self.fraction:g}"


def asks(draws: int) -> Iterator[Ask]:
    """All probes of one representation."""
    yield Ask(SUPER, 1.0, 0)
    yield Ask(ALL, 1.0, 0)
    for draw in range(draws):
        yield Ask(SUPER, 0.1, draw)


def probe(trained: Trained, run: config.RunConfig, draws: int) -> dict[str, list[list[float]]]:
    """Macro AUROC on the test records and in 1,000 resamples of them, per question and draw."""
    question, store = run.downstream[0], open_store(run.data.store)
    folds = {"train": question.train_folds, "validation": question.validation_folds, "test": question.test_folds}
    rows = {name: store.select(folds=its) for name, its in folds.items()}
    patients = store.column("patient_key")
    features = window_features(
        trained.backbone,
        store,
        np.sort(np.concatenate(list(rows.values()))),
        passport=trained.passport,
        window_samples=question.window_samples,
        stride_samples=question.stride_samples,
    )
    found: dict[str, list[list[float]]] = {}
    for ask in asks(draws):
        targets = tasks.load(ask.task).targets(store).fittable(rows["train"])
        whole = Split.given(features.features_nd, features.record_row_n, targets, patients)
        train, validation, test = (whole.only(rows[name]) for name in ("train", "validation", "test"))
        settings, context = Settings(label_fraction=ask.fraction), Context(targets.classes, trained, ask.draw)
        its = protocols.fit(train, validation, settings, context, test=test)
        score_rc = protocols.scores(its, test)
        resampled_rc = resampled_classes(test.y_rc, score_rc, test.patient_r, seed=0)
        values = [metrics.macro_auroc(test.y_rc, score_rc), *np.nanmean(resampled_rc, axis=1).tolist()]
        found.setdefault(ask.key, []).append([round(float(value), 6) for value in values])
        click.echo(f"  {ask.key} draw {ask.draw}: {values[0]:.3f} (penalty {its.chosen['penalty']:g})", err=True)
    return found


class Trivial(nn.Module):
    """Mean, standard deviation, least, greatest and mean square of each lead: what any network should beat."""

    n_leads, width, pooled_width = 12, 60, 60

    def forward(self, x_blt: Tensor) -> Features:
        """No tokens to speak of."""
        parts = (x_blt.mean(2), x_blt.std(2), x_blt.amin(2), x_blt.amax(2), x_blt.square().mean(2))
        pooled_bd = torch.cat(parts, dim=1)
        return Features(pooled_bd[:, None], pooled_bd)


def of_trivial(store: str, out: Path, draws: int) -> dict[str, dict[str, float]]:
    """Probes of numbers that need no network, on windows of 2.5 s in mV."""
    kept = out / "nulls" / "trivial.json"
    if not kept.is_file():
        click.echo("trivial features", err=True)
        run = config.load(RECIPES / "simclr.yaml", [f"data.store={store}"])
        passport = random_backbone(run, run.seed, calibrated=False).passport
        _write(kept, probe(Trained(Trivial(), passport), run, draws))
    found = json.loads(kept.read_text())
    return {key: interval(together([its])) for key, its in found.items()}


def null_key(run: config.RunConfig, null: str) -> str:
    """Runs with the same of this have the same untrained network, windows and folds."""
    settings, question = pretrain_of(run), run.downstream[0]
    about = settings.model_dump(mode="json", include={"backbone", "normalise", "batch_size", "window_samples"})
    text = json.dumps(
        [about, run.data.leads, question.model_dump(mode="json", exclude={"nulls"}), run.seed, null], sort_keys=True
    )
    return f"{about['backbone']['name']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def of_run(name: str, seed: int, store: str, out: Path, draws: int) -> dict[str, Any]:
    """Pretrain and probe one recipe with one seed, or find that done."""
    run = config.load(RECIPES / f"{name}.yaml", [f"data.store={store}", f"seed={seed}"])
    bare = run.model_copy(update={"downstream": ()})
    run_dir = out / f"{name}-{seed}"
    click.echo(f"{name}, seed {seed}", err=True)
    trained = learn(bare, run_dir, resume=True)
    path = run_dir / "proofs.json"
    if not path.is_file():
        _write(path, probe(load_backbone(run_dir), run, draws))
    del trained
    nulls = {}
    for null in config.NULLS:
        kept = out / "nulls" / f"{null_key(run, null)}.json"
        if not kept.is_file():
            click.echo(f"{name}, seed {seed}: {null}", err=True)
            untrained = random_backbone(run, run.seed, calibrated=null == "random")
            _write(kept, probe(untrained, run, draws))
        nulls[null] = json.loads(kept.read_text())
    lines = read_metrics(run_dir)
    last = {line.split: json.loads(line.text()) for line in lines}
    return {
        "probes": json.loads(path.read_text()),
        "nulls": nulls,
        "train": last["train"],
        "validation": last.get("validation", {}),
        "chance": last.get("chance", {}),
        "minutes": train_seconds(lines, pretrain_of(run).batch_size) / 60,
    }


def together(values: list[list[list[float]]]) -> npt.NDArray[np.float64]:
    """Mean over seeds and draws: the value, and that of each resample."""
    return np.mean([draw for seed in values for draw in seed], axis=0)


def interval(of: npt.NDArray[np.float64]) -> dict[str, float]:
    """A value with its 95 % interval."""
    low, high = np.nanquantile(of[1:], [0.025, 0.975])
    return {"value": float(of[0]), "low": float(low), "high": float(high)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and intervals of one recipe over its seeds."""
    made: dict[str, Any] = {"minutes": float(np.mean([run["minutes"] for run in runs]))}
    for key in runs[0]["probes"]:
        own = together([run["probes"][key] for run in runs])
        nulls = {null: together([run["nulls"][null][key] for run in runs]) for null in runs[0]["nulls"]}
        made[key] = {
            "method": interval(own),
            "nulls": {null: interval(its) for null, its in nulls.items()},
            "difference_to": {null: interval(own - its) for null, its in nulls.items()},
            "by_seed": [float(np.mean([draw[0] for draw in run["probes"][key]])) for run in runs],
        }
    return made


def table(found: dict[str, dict[str, Any]], runs: dict[str, list[dict[str, Any]]]) -> str:
    """The summary as Markdown."""
    lines = [
        "| recipe | its own task, held out | labels | macro AUROC | minus `random` | minus `uncalibrated` | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    questions = {f"{SUPER} 0.1": "10 %", f"{SUPER} 1": "all", f"{ALL} 1": "all, 71 statements"}
    for name, its in found.items():
        own = ", ".join(f"{run['validation'].get(PRETEXT[name], float('nan')):.3f}" for run in runs[name])
        chance = runs[name][0]["chance"].get(PRETEXT[name])
        known = "" if chance is None else f" (chance {chance:.3g})"
        first = [f"`small/{name}`", f"{PRETEXT[name]} {own}{known}".replace("-", "−")]
        for key, labels in questions.items():
            gains = [_words(its[key]["difference_to"][null], "+") for null in config.NULLS]
            last = f"{its['minutes']:.0f}" if labels == "10 %" else ""
            lines.append("| " + " | ".join([*first, labels, _words(its[key]["method"]), *gains, last]) + " |")
            first = ["", ""]
    return "\n".join(lines)


def _words(one: dict[str, float], sign: str = "") -> str:
    text = f"{one['value']:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"
    return text.replace("-", "−")


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(content))
    aside.replace(path)


@click.command()
@click.option("--store", required=True, help="Sealed store of PTB-XL at 100 Hz, filtered.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/proofs"), show_default=True)
@click.option("--method", "names", multiple=True, type=click.Choice(sorted(PRETEXT)), help="Default: all.")
@click.option("--seeds", default="1,2", show_default=True)
@click.option("--draws", type=click.IntRange(1), default=3, show_default=True, help="Of a tenth of the labels.")
@click.option("--json", "as_json", is_flag=True, help="Only the last line.")
def main(store: str, out: Path, names: tuple[str, ...], seeds: str, draws: int, as_json: bool) -> None:
    """Pretrain all small recipes, probe them, and put them beside their nulls."""
    keep_freed_memory()
    runs = {
        name: [of_run(name, int(seed), store, out, draws) for seed in seeds.split(",")]
        for name in names or sorted(PRETEXT)
    }
    found = {name: summary(its) for name, its in runs.items()}
    trivial = of_trivial(store, out, draws)
    if not as_json:
        click.echo(table(found, runs))
    answer = {"benchmark": "proofs", "seeds": seeds, "draws": draws, "recipes": found, "trivial": trivial}
    click.echo(json.dumps(answer))


if __name__ == "__main__":
    main()
