"""SIGKILL while a question is answered, within a curve and between seeds: nothing comes out otherwise."""

from __future__ import annotations

import signal

import pytest
from processes import DIES_AT_A_NAME, Started

from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.reporting.report import read_report
from ecgtrain.run import run
from ecgtrain.training.files import plain

RUN = f"""{DIES_AT_A_NAME}
from ecgtrain import config
from ecgtrain.run import run
run(config.load(sys.argv[1]), sys.argv[2], resume=True)
"""
COMMON = {
    "task": "ptbxl/superdiagnostic",
    "train_folds": [1, 2, 3, 4],
    "validation_folds": [5, 6],
    "test_folds": [7, 8],
    "window_samples": 200,
    "stride_samples": 200,
}
TRAINED = {"batch_size": 4, "head": {"hidden": None, "dropout": [0.0, 0.0]}}


def recipe(store, path):
    content = {
        "name": "killed",
        "seeds": [1, 2],
        "data": {"store": str(store)},
        "pretrain": {
            "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
            "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
            "folds": [1, 2, 3, 4],
            "window_samples": 200,
            "batch_size": 8,
            "steps": 30,
            "checkpoint_every_steps": 1,
            "trackers": [],
        },
        "downstream": [
            {**COMMON, "name": "probe", "nulls": ["random"], "settings": {"penalties": [1.0]}},
            {
                **COMMON,
                "name": "tuned",
                "protocol": "fine_tune",
                "compare_to": ["probe"],
                "settings": {**TRAINED, "stages": [{"trains": "head", "epochs": 5}, {"epochs": 20}]},
            },
        ],
        "curves": [{"kind": "label_efficiency", "fractions": [0.5, 0.75, 1.0], "draws": 2, "reference": "probe"}],
    }
    path.write_text(config.dump(parse(RunConfig, content)))
    return path


#: What gets its name when a process dies, and the how manieth of its kind; and what must not be there yet.
STAGES = {
    "pretraining": ("*/seeds/1/checkpoints/step-*", 3, "seeds/1/export"),
    "fine-tuning": ("*/seeds/1/downstream/tuned/cpc/*", 1, "seeds/1/downstream/tuned/cpc/head.json"),
    "a curve": ("*/seeds/1/curves/*/points/*.parquet", 4, "seeds/1/report.json"),
    "the second seed": ("*/seeds/2/checkpoints/step-*", 3, "seeds/2/export"),
}


def told(run_dir):
    """All that a run's report says but for when and how fast: results and curves, seed by seed and together."""
    reports = [read_report(run_dir / where) for where in (".", "seeds/1", "seeds/2")]
    return [
        [plain(one.as_json()) for one in report.results] + [plain(one.model_dump()) for one in report.asked_over]
        for report in reports
    ]


@pytest.mark.slow
def test_a_run_killed_at_every_stage_comes_to_the_same(mini_store, tmp_path):
    recipe_path = recipe(mini_store, tmp_path / "recipe.yaml")
    run(config.load(recipe_path), tmp_path / "whole")
    killed = tmp_path / "killed"
    for stage, (named, n, later) in STAGES.items():
        ended = Started(RUN, recipe_path, killed, named, n).wait()
        assert ended.status == -signal.SIGKILL, f"{stage}: {ended.errors}"
        assert not (killed / later).exists(), stage
    run(config.load(recipe_path), killed, resume=True)
    assert told(killed) == told(tmp_path / "whole")
