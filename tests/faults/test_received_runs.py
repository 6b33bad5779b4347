"""A run, export or recipe that came from elsewhere: nothing of it is run, and what is wrong with it is one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from quickly import quickly

from ecgstore import EcgError, open_store
from ecgstore.inner import occupant, occupants, parse
from ecgtrain import cli, config
from ecgtrain.backbones import build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.representation.export import load_backbone
from ecgtrain.run import evaluate_store, merge_reports, run
from ecgtrain.training.checkpoint import last

TASK = "ptbxl/superdiagnostic"
QUESTION = {
    "name": "q",
    "task": TASK,
    "train_folds": [1, 2, 3, 4, 5, 6],
    "test_folds": [8],
    "window_samples": 100,
    "stride_samples": 500,
    "settings": {"penalties": [1.0]},
}


def recipe(store, **question) -> dict:
    pretrain = {
        "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
        "folds": [1, 2, 3, 4, 5, 6],
        "window_samples": 100,
        "batch_size": 8,
        "steps": 2,
    }
    return {
        "name": "tiny",
        "data": {"store": str(store)},
        "pretrain": pretrain,
        "downstream": [{**QUESTION, **question}],
    }


@pytest.fixture(scope="module")
def finished(mini_store, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    run(parse(RunConfig, recipe(mini_store)), place)
    return place


@pytest.fixture
def received(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def trap(tmp_path):
    """A file of code, and whether it was run."""
    code = tmp_path / f"{tmp_path.name}.py"  # files that are named are known for the rest of the process, by name
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    yield str(code)
    assert not (tmp_path / "ran").exists(), "code of a received run was run"


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def sealed(folder: Path) -> None:
    names = [path for path in folder.iterdir() if path.name != "checkpoint.json" and path.is_file()]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
    (folder / "checkpoint.json").write_text(json.dumps({"sha256": hashes}))


def refused(do, said: str) -> None:
    with pytest.raises(EcgError, match=said) as caught:
        do()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_an_export_names_no_code(received, trap, mini_store):
    def change(about):
        about["backbone"]["name"] = trap

    edit(received / "export" / "config.json", change)
    sealed(received / "export")
    for do in (lambda: load_backbone(received), lambda: evaluate_store(received, str(mini_store))):
        refused(do, "not run unless you name it yourself")


@pytest.mark.parametrize("part", ["task", "protocol"])
def test_a_head_names_no_code(received, trap, mini_store, part):
    value = f"{trap}/x" if part == "task" else trap
    edit(received / "downstream/q/cpc/head.json", lambda head: head.update({part: value}))
    refused(lambda: evaluate_store(received, str(mini_store)), "name it yourself|unknown protocol")


@pytest.mark.parametrize("place", ["task", "protocol", "online_probe", "method", "backbone", "supervised"])
@pytest.mark.parametrize("way", ["load", "resume"])
def test_the_recipe_of_a_run_names_no_code(received, trap, place, way):
    content = yaml.safe_load((received / "config.yaml").read_text())
    pretrain, (question,) = content["pretrain"], content["downstream"]
    if place in ("task", "protocol"):
        question[place] = f"{trap}/x" if place == "task" else trap
    elif place == "online_probe":
        pretrain |= {"online_probe": f"{trap}/x", "validation_folds": [7]}
    elif place == "supervised":
        pretrain["method"] = {"name": "supervised", "task": f"{trap}/x"}
    else:
        pretrain[place] = {"name": trap}
    (received / "config.yaml").write_text(yaml.safe_dump(content))
    words = ["run", str(received / "config.yaml"), "--out", str(received)] + ["--resume"] * (way == "resume")
    before = {path: path.read_bytes() for path in received.rglob("*") if path.is_file()}
    done = CliRunner().invoke(cli.main, words)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(path.read_bytes() == content for path, content in before.items())


OWN_TASK = """
import numpy as np
from ecgtrain.tasks import Targets
DESCRIPTION = "Whether a record's number is even."
LABEL_SETS = {"even": "even numbers"}
def targets(store, label_set):
    y_nc = (np.arange(store.n_records) % 2 == 0)[:, None]
    return Targets("own/even", ("even",), y_nc, np.arange(store.n_records))
"""


def test_code_of_ones_own_runs_where_it_is_named(mini_store, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN_TASK)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(mini_store, task=f"{own}/even")))
    place = tmp_path / "run"
    assert run(config.load(tmp_path / "recipe.yaml"), place).results
    assert config.load(place / "config.yaml", own_files=[own])
    assert evaluate_store(place, str(mini_store), own_files=[own]).results
    own.write_text(OWN_TASK + "# another\n")
    refused(
        lambda: evaluate_store(place, str(mini_store), own_files=[own]),
        "not the one that the head was fitted with",
    )
    refused(lambda: evaluate_store(place, str(mini_store), own_files=[tmp_path / "none.py"]), "is not there")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about.update(n_leads=10**12), "leads"),
        (lambda about: about["backbone"].update(lstm_width=10**9), "lstm_width: input should be less than"),
        (lambda about: about["backbone"].update(lstm_layers=60_000), "lstm_layers: input should be less than"),
        (lambda about: about["backbone"].update(lstm_width=6), "don't fit the network"),
        (lambda about: about["backbone"].update(lstm_layers=20), "don't fit the network"),
        (lambda about: about["backbone"].update(name=["cpc_lstm"]), "unknown backbone"),
        (lambda about: about.update(backbone=7), "isn't an exported backbone"),
        (lambda about: about.pop("backbone"), "isn't an exported backbone"),
    ],
)
def test_an_export_of_absurd_size_is_refused_before_it_is_built(received, change, said):
    edit(received / "export" / "config.json", change)
    sealed(received / "export")
    refused(lambda: load_backbone(received), said)


@pytest.mark.parametrize("name", ["../../../private.txt", "/dev/zero", "extra.bin"])
def test_a_seal_names_no_other_file(received, name):
    edit(received / "export" / "checkpoint.json", lambda seal: seal["sha256"].update({name: "0" * 64}))
    refused(lambda: load_backbone(received), "doesn't name all files, or others")


@pytest.mark.parametrize(
    "name", ["export/config.json", "downstream/q/cpc/head.json", "seen.parquet", "export/model.safetensors"]
)
@pytest.mark.parametrize("what", ["pipe", "link", "empty", "garbage", "deep"])
def test_strange_files_are_one_line(received, mini_store, name, what):
    path = received / name
    path.unlink()
    match what:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/etc/hostname")
        case _:
            path.write_bytes({"empty": b"", "garbage": bytes(range(256)), "deep": b"[" * 100_000}[what])
    refused(lambda: evaluate_store(received, str(mini_store)), "[a-z]")


def as_in_a_cache(folder: Path, cache: Path) -> Path:
    """``folder`` as the cache of Hugging Face holds it: every file a link to a blob beside the snapshot."""
    top = cache / "models--team--ecg"
    snapshot = shutil.copytree(folder, top / "snapshots" / "0123abc", copy_function=shutil.move)
    (top / "blobs").mkdir()
    for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        path.rename(top / "blobs" / str(number))
        path.symlink_to(os.path.relpath(top / "blobs" / str(number), path.parent))
    return snapshot


def test_a_cache_made_of_links_is_refused_with_its_cure(received, mini_store, tmp_path):
    snapshot = as_in_a_cache(received, tmp_path)
    cure = "hf download NAME --local-dir FOLDER"
    refused(lambda: evaluate_store(snapshot, str(mini_store)), f"a link stands in the run.*{cure}")
    refused(lambda: load_backbone(snapshot), f"a link, which is not followed.*{cure}")
    whole = shutil.copytree(snapshot, tmp_path / "whole")  # as cp -rL does
    (tmp_path / "named").symlink_to(whole)
    assert evaluate_store(tmp_path / "named", str(mini_store)).results


@pytest.mark.parametrize("to", ["seen.parquet", "../outside.json"])
def test_no_link_in_a_run_is_followed(received, mini_store, to):
    path = received / "export" / "config.json"
    path.rename(received / "export" / to)
    path.symlink_to(to)
    refused(lambda: evaluate_store(received, str(mini_store)), "links are not followed.*cp -rL")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"results": 7}', b'{"results": [{"name": 1}]}', b"\xff"])
def test_a_report_of_elsewhere_is_one_line(received, tmp_path, content):
    (received / "report.json").write_bytes(content)
    refused(lambda: merge_reports([received], tmp_path / "out"), "[a-z]")


def test_a_trainer_that_is_a_bomb_is_not_resumed(received, mini_store):
    import zipfile

    path = last(received / "checkpoints")
    with zipfile.ZipFile(path / "trainer.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000_000))
    sealed(path)
    made = parse(RunConfig, recipe(mini_store))
    refused(lambda: run(made, received, resume=True), "trainer's state can't be read.*compressed")


@pytest.mark.slow
def test_a_question_is_not_answered_anew_under_other_settings(received, mini_store):
    before = (received / "downstream/q/cpc/result.json").read_bytes()
    other = parse(RunConfig, recipe(mini_store, stride_samples=100))
    refused(lambda: run(other, received, resume=True), "q was answered with other settings: stride_samples differs")
    assert (received / "downstream/q/cpc/result.json").read_bytes() == before
    more = recipe(mini_store)
    more["downstream"].append({**QUESTION, "name": "second", "stride_samples": 100})
    report = run(parse(RunConfig, more), received, resume=True)
    assert [result.name for result in report.results] == ["q", "second"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".", ".hidden", "a\nb", "[/b]", "x" * 101, "ü", "a b"])
def test_names_are_names(mini_store, name):
    for content in (recipe(mini_store, name=name), {**recipe(mini_store), "name": name}):
        refused(lambda content=content: parse(RunConfig, content), "a name has letters, digits")


#: Its blocks are large and take seconds to draw.
LARGE = "vit1d"


@pytest.mark.parametrize(
    "name", quickly(occupants("ecgtrain.backbones"), *sorted({*occupants("ecgtrain.backbones")} - {LARGE}))
)
def test_every_backbone_can_be_looked_at_before_it_is_built(name):
    import torch

    settings = occupant("ecgtrain.backbones", name).Settings()
    with torch.device("meta"):
        sketch = build_backbone(settings, 12, seed=0).state_dict()
    whole = build_backbone(settings, 12, seed=0).state_dict()
    assert {key: (value.shape, value.dtype) for key, value in sketch.items()} == {
        key: (value.shape, value.dtype) for key, value in whole.items()
    }


def test_intervals_are_those_of_the_run(finished, mini_store):
    (judged,) = evaluate_store(finished, str(mini_store)).results
    written = json.loads((finished / "downstream/q/cpc/result.json").read_text())["metrics"]
    for name, interval in judged.metrics.items():
        assert interval == pytest.approx(tuple(written[name].values()), nan_ok=True)
    assert open_store(mini_store).fingerprint == judged.store_fingerprint


def test_text_that_is_not_utf_8_is_one_line(received, mini_store):
    for path in (received / "seen.parquet", received / "downstream/q/cpc/seen.parquet"):
        table = pq.ParquetFile(path).read(use_threads=False)
        i = table.column_names.index("record_id")
        wrong = pa.array([b"\xff"] * len(table)).view(pa.string())
        pq.write_table(table.set_column(i, "record_id", wrong), path)
    refused(lambda: evaluate_store(received, str(mini_store)), "what the run has seen can't be read.*UTF-?8")


def test_gigabytes_of_text_in_a_few_bytes_are_not_unpacked(received, mini_store):
    path = received / "seen.parquet"
    table = pq.ParquetFile(path).read(use_threads=False).take([0] * 100_000)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int8()), pa.array(["x" * 60_000]))
    pq.write_table(table.set_column(0, "record_id", long), path, store_schema=False)
    assert path.stat().st_size < 200_000
    refused(lambda: evaluate_store(received, str(mini_store)), "bytes, unpacked, are no table of records")
