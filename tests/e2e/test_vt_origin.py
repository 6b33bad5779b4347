"""Where beats begin, end to end: learned on virtual patients, judged on them and on a folder made as OTVA is."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore import cli as ecgstore_cli
from ecgstore.build.beats import beats_store
from ecgstore.inner import parse
from ecgstore.record import LEADS_12
from ecgstore.sources import otva, synthetic_vt
from ecgtrain import cli as ecgtrain_cli
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.reporting.report import read_report
from ecgtrain.run import evaluate_store, run

COUNTS_PER_MV = 16_384
REGIONS, OUTFLOW, COORDS = {"labels": "four"}, {"labels": "outflow"}, {"ask": "coords"}


def question(name: str, protocol: str, asked: dict[str, str], **more: object) -> dict[str, object]:
    penalties = {} if protocol == "sex_only" else {"settings": {"penalties": [1.0, 0.01]}}
    return {
        **penalties,
        "name": name,
        "task": {"kind": "vt_origin", **asked},
        "protocol": protocol,
        "train_folds": [1, 2, 3, 4, 5],
        "validation_folds": [6, 7],
        "test_folds": [8, 9, 10],
        "window_samples": 120,
        "stride_samples": 120,
        **more,
    }


@pytest.fixture(scope="module")
def finished(beat_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pretrain = {
        "method": {"name": "stj", "span": {"ratio": [0.15, 0.4], "span_s": [0.02, 0.1]}},
        "backbone": {"name": "conv_reconstructor", "width": 2},
        "folds": [1, 2, 3, 4, 5],
        "window_samples": 120,
        "normalise": "record",
        "batch_size": 8,
        "steps": 2,
    }
    downstream = [
        question("region", "linear_probe", REGIONS, nulls=["random"], compare_to=["qrs", "sex"]),
        question("qrs", "qrs_integrals", REGIONS),
        question("sex", "sex_only", REGIONS),
        question("outflow", "qrs_integrals", OUTFLOW, validation_folds=[], settings={"penalties": [0.1]}),
        question("place", "linear_probe", COORDS, compare_to=["place.qrs"]),
        question("place.qrs", "qrs_integrals", COORDS),
    ]
    content = {"name": "vt", "data": {"store": str(beat_store)}, "pretrain": pretrain, "downstream": downstream}
    place = tmp_path_factory.mktemp("runs") / "vt"
    run(parse(RunConfig, content), place)
    return place


def test_regions_and_places_have_their_scores_and_differences(finished: Path) -> None:
    found = {(one.name, one.pretraining): one for one in read_report(finished).results}
    region, qrs, place = found["region", "stj"], found["qrs", "none"], found["place", "stj"]
    wanted = {"balanced_accuracy", "adjacent_accuracy", "centroid_distance_mm"}
    assert wanted < set(region.metrics)
    assert (region.compared_by, place.compared_by) == ("accuracy", "distance_mm")
    assert {"distance_mm", "median_distance_mm", "geodesic_mm", "mae", "r2"} == set(place.metrics)
    assert region.metrics["adjacent_accuracy"].value >= region.metrics["accuracy"].value
    assert place.metrics["geodesic_mm"].value >= place.metrics["distance_mm"].value
    for one, other in ((region, "random"), (region, "qrs"), (region, "sex"), (place, "place.qrs")):
        its = one.difference_to[other]
        assert set(its) >= {one.compared_by, *(wanted if one is region else {"geodesic_mm"})}
    apart = region.metrics["centroid_distance_mm"].value - qrs.metrics["centroid_distance_mm"].value
    assert region.difference_to["qrs"]["centroid_distance_mm"].value == pytest.approx(apart)
    assert 15 < place.of_a_constant < 80
    assert place.agreement is None
    # Areas of the QRS complex tell more than one guess for all, of few patients too.
    assert found["place.qrs", "none"].score.value < place.of_a_constant
    for one in found.values():
        assert all(math.isfinite(span.value) for name, span in one.metrics.items() if name in wanted), one.name


def test_the_page_puts_the_baselines_beside_the_probe(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for words in (
        "QRS integrals",
        "Sex alone",
        "Right or adjacent",
        "Distance through muscle, mm",
        "reaches a distance of",
    ):
        assert words in page, words


def write_as_otva(root: Path, n_people: int) -> Path:
    """Virtual patients with a beat from an outflow tract, in files as OTVA has them."""
    (root / otva.RAW).mkdir(parents=True)
    simulated = synthetic_vt.Simulation(n_records=60, seed=7, fs_hz=2000, duration_s=6, origins_per_patient=4)
    rows = [("HospitalID", "Type", "LeftRight", "Sublocation", "Gender")]
    people = set()
    for truth in synthetic_vt.truths(simulated):
        region = str(truth.made.heart.site[truth.origin]).partition("_")[0]
        if region not in ("RVOT", "LVOT") or truth.person in people:
            continue
        people.add(truth.person)
        counts_lt = np.rint(synthetic_vt.record(simulated, truth).signal_mv_lt * COUNTS_PER_MV).astype(int)
        with (root / otva.RAW / f"{truth.person}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(otva.LEADS)
            table.writerows(counts_lt[[LEADS_12.index(name) for name in otva.LEADS]].T.tolist())
        rows.append((str(truth.person), "PVC", "Right" if region == "RVOT" else "Left", "", truth.patient.sex))
        if len(people) == n_people:
            break
    (root / "Diagnosis.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    return root


@pytest.fixture(scope="module")
def otva_beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of these, and their store of beats."""
    root = write_as_otva(tmp_path_factory.mktemp("otva") / "OTVA", 6)
    filters = ({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},)
    settings = IngestSettings(fs_hz=200, filters=filters, uncalibrated=f"assume={COUNTS_PER_MV}")
    ingest_folder(root, root.parent / "otva.ecg", settings)
    beats_store(open_store(root.parent / "otva.ecg"), root.parent / "otva_beats.ecg")
    return root.parent / "otva_beats.ecg"


@pytest.mark.slow
def test_trained_on_virtual_patients_and_tested_on_otva(finished: Path, otva_beats: Path) -> None:
    names = ["region", "qrs", "sex", "outflow"]
    found = evaluate_store(finished, str(otva_beats), names=names).results
    assert [one.name for one in found if one.pretraining == "random"] == ["region"]
    assert len(found) == 5
    n_records = open_store(otva_beats).n_records
    for one in found:
        assert (one.n_test, one.folds) == (n_records, "all")
        assert one.store == str(otva_beats)
        assert "balanced_accuracy" in one.metrics
        assert any("16384 counts per mV" in text for text in one.caveats)
    by_name = {one.name: one for one in found if one.pretraining != "random"}
    assert set(by_name["region"].confusion.classes) == {"RVOT", "LVOT", "RV", "LV"}
    assert set(by_name["outflow"].confusion.classes) == {"RVOT", "LVOT"}


def commanded(program: Any, *arguments: object) -> str:
    done = CliRunner().invoke(program.main, [str(one) for one in arguments])
    assert done.exit_code == 0, (arguments, done.stderr)
    return done.stdout


def overridden(store: Path, otva_store: Path, *more: str) -> list[str]:
    """Options that make `small/vt_otva` a matter of seconds."""
    told = [
        f"data.store={store}",
        f"curves.0.stores=[{otva_store}]",
        "pretrain.steps=2",
        "pretrain.backbone.width=2",
        "pretrain.batch_size=8",
    ]
    told += ["downstream.1.settings={stages: [{epochs: 1}], keep: last}", *more]
    return [part for one in told for part in ("--set", one)]


def judged_there(out: Path) -> dict[tuple[str, str], float]:
    rows = list(csv.DictReader((out / "curves" / "otva" / "curve.csv").read_text().splitlines()))
    assert {row["place"] for row in rows} == {rows[0]["place"], "otva_beats.ecg"}
    return {
        (row["question"], row["pretraining"]): float(row["score"]) for row in rows if row["place"] == "otva_beats.ecg"
    }


@pytest.mark.slow
def test_one_recipe_trains_on_virtual_patients_and_tests_on_otva(
    beat_store: Path, otva_beats: Path, tmp_path: Path
) -> None:
    shorter = ["pretrain.folds=[1, 2, 3, 4, 5]", "pretrain.validation_folds=[]", "pretrain.window_samples=120"]
    for i in range(4):
        shorter += [f"downstream.{i}.{key}_samples=120" for key in ("window", "stride")]
        shorter += [f"downstream.{i}.train_folds=[1, 2, 3, 4, 5]", f"downstream.{i}.validation_folds=[]"]
    shorter += [f"downstream.{i}.settings={{penalties: [1.0]}}" for i in (0, 2)]
    given = overridden(beat_store, otva_beats, *shorter)
    commanded(ecgtrain_cli, "run", "small/vt_otva", "--out", tmp_path / "run", *given)
    there = judged_there(tmp_path / "run")
    assert set(there) == {
        ("outflow", "stj"), ("outflow", "random"), ("outflow.scratch", "none"), ("outflow.qrs", "none"),
        ("outflow.sex", "none"),
    }  # fmt: skip
    said = json.loads(commanded(ecgtrain_cli, "evaluate", tmp_path / "run", "--store", otva_beats, "--json"))
    found = {(one["name"], one["pretraining"]): one["metrics"]["accuracy"]["value"] for one in said["results"]}
    assert found == pytest.approx(there)


@pytest.mark.slow
def test_the_commands_of_the_page_from_nothing_to_otva(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/tasks.md has them, with fewer patients and steps."""
    monkeypatch.chdir(tmp_path)
    write_as_otva(tmp_path / "OTVA", 6)
    for line in (
        "simulate vt --kind vt --records 240 --origins 4",
        "ingest vt vt.ecg --fs 250",
        "beats vt.ecg vt_beats.ecg",
        f"ingest OTVA otva.ecg --source otva --fs 250 --uncalibrated assume={COUNTS_PER_MV}",
        "beats otva.ecg otva_beats.ecg",
    ):
        commanded(ecgstore_cli, *line.split())
    given = overridden(Path("vt_beats.ecg"), Path("otva_beats.ecg"))
    commanded(ecgtrain_cli, "run", "small/vt_otva", "--out", "runs/vt-otva", *given)
    there = judged_there(Path("runs/vt-otva"))
    # Areas of the QRS complex, learned on some twenty patients, tell the side of six others: not all by chance.
    assert there["outflow.qrs", "none"] > 0.5
    commanded(ecgtrain_cli, "evaluate", "runs/vt-otva", "--store", "otva_beats.ecg")


def test_the_shipped_recipe_asks_all_of_this() -> None:
    recipe = config.load("small/vt_origin")
    protocols = {(one.protocol, str(one.task)) for one in recipe.downstream}
    assert len({protocol for protocol, _ in protocols}) == 5
    assert all({**one.task}["kind"] == "vt_origin" for one in recipe.downstream)
