from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from torch import nn

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgtrain.errors import CheckpointError, DivergedError, PassportError
from ecgtrain.training import checkpoint
from ecgtrain.views.normalise import Normalisation
from ecgtrain.views.passport import Passport

PASSPORT = Passport(
    leads=("I", "V1"),
    fs_hz=100.0,
    counts_per_mv=1000,
    window_samples=250,
    normalisation=Normalisation(mode="lead", mean_mv={"I": 0.0, "V1": -0.1}, std_mv={"I": 0.2, "V1": 1 / 3}),
    recipe={"fs_hz": 100.0, "leads": ["I", "V1"], "filters": []},
    recipe_sha256="a" * 64,
    store_fingerprint="b" * 64,
)


def save(folder, step, **others):
    torch.manual_seed(step)
    model = nn.LSTM(3, 4, 2)
    trainer = {"step": step, "optimiser": {"state": {0: {"exp_avg": torch.rand(3)}}}}
    path = checkpoint.save(folder, step, model=model, trainer=trainer, config={"seed": 1}, passport=PASSPORT, **others)
    return path, model, trainer


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path, model, trainer = save(tmp_path, 12)
    assert path == tmp_path / "step-00000012" == checkpoint.last(tmp_path)
    assert sorted(file.name for file in path.iterdir()) == [
        "checkpoint.json",
        "config.json",
        "model.safetensors",
        "preprocessing.json",
        "trainer.pt",
    ]
    weights = checkpoint.load_weights(path)
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    loaded = checkpoint.load_trainer(path)
    assert loaded["step"] == 12
    assert torch.equal(loaded["optimiser"]["state"][0]["exp_avg"], trainer["optimiser"]["state"][0]["exp_avg"])
    assert checkpoint.load_config(path) == {"seed": 1}
    assert checkpoint.load_passport(path) == PASSPORT


def test_the_last_two_are_kept_and_nothing_else(tmp_path):
    (tmp_path / ".step-00000001.partial").mkdir()
    for step in (5, 9, 100_000_000):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-100000000"]
    assert checkpoint.last(tmp_path).name == "step-100000000"


def test_the_same_step_can_be_saved_again(tmp_path):
    save(tmp_path, 5)
    path, model, _ = save(tmp_path, 5)
    assert torch.equal(checkpoint.load_weights(path)["bias_hh_l0"], model.bias_hh_l0)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


TEARS = {
    "bit": lambda path: flip(path / "model.safetensors"),
    "truncated": lambda path: (path / "trainer.pt").write_bytes((path / "trainer.pt").read_bytes()[:-7]),
    "a hole of terabytes": lambda path: os.truncate(path / "model.safetensors", 2**42),
    "missing": lambda path: (path / "config.json").unlink(),
    "unsealed": lambda path: (path / "checkpoint.json").unlink(),
    "garbled": lambda path: (path / "checkpoint.json").write_text("[1, 2"),
    "nonsense": lambda path: (path / "checkpoint.json").write_text('{"sha256": [3]}'),
    "empty": lambda path: (path / "checkpoint.json").write_text('{"sha256": {}}'),
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path, tear, caplog):
    save(tmp_path, 5)
    newest, _, _ = save(tmp_path, 9)
    TEARS[tear](newest)
    assert checkpoint.last(tmp_path).name == "step-00000005"
    assert "step-00000009 is passed over" in caplog.text


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.last(tmp_path / "nowhere") is None
    newest, _, _ = save(tmp_path, 9)
    flip(newest / "trainer.pt")
    assert checkpoint.last(tmp_path) is None


def test_a_refusing_disk_is_one_clear_error_and_harms_nothing(tmp_path):
    save(tmp_path / "run", 5)
    (tmp_path / "run" / ".step-00000009.partial").write_text("in the way")
    with pytest.raises(CheckpointError, match="can't be written.*step-00000009.*make room and resume"):
        save(tmp_path / "run", 9)
    assert checkpoint.last(tmp_path / "run").name == "step-00000005"


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def test_nothing_but_tensors_is_ever_unpickled(tmp_path, capsys):
    path, _, _ = save(tmp_path, 5)
    with (path / "trainer.pt").open("wb") as file:
        pickle.dump({"step": Bomb()}, file)
    with pytest.raises(CheckpointError, match="trainer's state can't be read"):
        checkpoint.load_trainer(path)
    torch.save({"step": Bomb()}, path / "trainer.pt")
    with pytest.raises(CheckpointError, match="trainer's state can't be read"):
        checkpoint.load_trainer(path)
    assert capsys.readouterr().out == ""


def test_unreadable_parts_are_clear_errors(tmp_path):
    path, _, _ = save(tmp_path, 5)
    (path / "model.safetensors").write_bytes(b"no weights")
    (path / "config.json").write_text("{")
    (path / "preprocessing.json").write_text(json.dumps({"leads": ["I"]}))
    with pytest.raises(CheckpointError, match="weights can't be read"):
        checkpoint.load_weights(path)
    with pytest.raises(CheckpointError, match="config.json"):
        checkpoint.load_config(path)
    with pytest.raises(PassportError, match="can't be understood"):
        checkpoint.load_passport(path)


def passport_of(store, **others):
    return PASSPORT.model_copy(update={"recipe": store.recipe, "fs_hz": store.fs_hz, **others})


def test_a_passport_is_good_for_stores_of_the_same_recipe(mini, mini_store, tmp_path):
    store = open_store(mini_store)
    passport = passport_of(store)
    passport.refuse_other(store)
    recipe = IngestSettings(**store.recipe)
    some = recipe.model_copy(update={"leads": ("V1", "I", "II")})
    ingest_folder(mini, tmp_path / "some.ecg", some)
    passport.refuse_other(open_store(tmp_path / "some.ecg"))
    with pytest.raises(PassportError, match="lacks lead V6"):
        passport_of(store, leads=("I", "V6")).refuse_other(open_store(tmp_path / "some.ecg"))
    with pytest.raises(PassportError, match="expected 500 Hz, got 100 Hz"):
        passport_of(store, fs_hz=500.0).refuse_other(store)
    ingest_folder(mini, tmp_path / "raw.ecg", recipe.model_copy(update={"filters": ()}))
    with pytest.raises(PassportError, match="filters differs.*bandpass"):
        passport.refuse_other(open_store(tmp_path / "raw.ecg"))


def test_errors_pickle():
    error = DivergedError(7, {"loss": float("nan"), "accuracy": 0.5}, [f"r{i}" for i in range(20)])
    again = pickle.loads(pickle.dumps(error))
    assert (again.step, again.parts["accuracy"], again.record_ids[3]) == (7, 0.5, "r3")
    assert str(again) == str(error)
    assert "step 7, records r0, r1, r2, r3, r4, r5, r6, r7, …; got loss nan, accuracy 0.5" in str(error)
