"""What every protocol promises: a new file is tested by being there. And what the contract lets a later one do."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ecgstore import open_store
from ecgstore.inner import occupant, occupants, parse
from ecgtrain import tasks
from ecgtrain.config import RunConfig
from ecgtrain.data.plan import batch_plan
from ecgtrain.errors import CheckpointError, LeakageError, ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.heads import Head, load_head, save_head
from ecgtrain.evaluation.protocols import Context, Fitted, settings_of
from ecgtrain.evaluation.splits import GivenFeatures, Split, StoredWindows, tile_average
from ecgtrain.representation.extract import WindowFeatures
from ecgtrain.representation.nulls import random_backbone

ROOM = "ecgtrain.evaluation.protocols"
PROTOCOLS = occupants(ROOM)
TASK = "ptbxl/superdiagnostic"
FOLDS = {"train": [1, 2, 3, 4, 5, 6], "validation": [7], "test": [8]}
#: Those that train a network, with few epochs of small heads; all others have their default settings.
FEW_EPOCHS = {
    "fine_tune": {"stages": [{"trains": "head", "epochs": 2}, {"epochs": 1}], "head": {"hidden": 4, "batchnorm": True}},
    "scratch": {"stages": [{"epochs": 2}]},
    "attention_probe": {"stages": [{"epochs": 2}]},
}
CUT = {"window_samples": 250, "stride_samples": 125}


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


@pytest.fixture(scope="module")
def trained(mini_store):
    """An untrained network of a dozen features."""
    recipe = {
        "name": "tiny",
        "data": {"store": str(mini_store)},
        "pretrain": {
            "method": {"name": "cpc"},
            "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
            "folds": FOLDS["train"],
            "window_samples": 250,
            "batch_size": 8,
            "steps": 1,
        },
    }
    return random_backbone(parse(RunConfig, recipe), seed=1, calibrated=False)


@pytest.fixture(scope="module")
def targets(store):
    return tasks.load(TASK).targets(store).fittable(store.select(folds=FOLDS["train"]))


@pytest.fixture(scope="module")
def splits(store, trained, targets):
    def split(folds):
        rows = targets.labelled(store.select(folds=folds))
        return Split.of(rows, targets, store.column("patient_key"), StoredWindows(store, rows, trained, **CUT))

    return {name: split(folds) for name, folds in FOLDS.items()}


@pytest.fixture(scope="module")
def context(trained, targets):
    return Context(targets.classes, trained, seed=3)


def head_of(name, context, fitted):
    about = {"name": "q", "task": TASK, "protocol": name, "pretraining": "cpc", "classes": context.classes, **CUT}
    return Head(**about, test_folds=(8,), n_train=fitted.n_train, patients=())


@pytest.fixture(scope="module", params=PROTOCOLS)
def fitted(request, splits, context):
    """Each protocol, fitted, and its name."""
    settings = settings_of(request.param, FEW_EPOCHS.get(request.param, {}), where="here")
    train, validation, test = splits.values()
    return request.param, protocols.fit(train, validation, settings, context, test=test)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_says_what_it_is(name):
    its = occupant(ROOM, name)
    assert its.DESCRIPTION.strip()
    assert "\n" not in its.DESCRIPTION
    assert its.Settings.model_fields["name"].default == name
    assert its.Settings.__doc__


def test_a_head_scores_every_record_and_class_and_reads_back_to_the_bit(fitted, splits, context, trained, tmp_path):
    name, made = fitted
    test = splits["test"]
    score_rc = protocols.scores(made, test)
    assert score_rc.shape == (len(test.row_r), len(context.classes))
    assert made.classes == context.classes
    assert made.n_train == len(splits["train"].row_r)
    json.dumps(made.chosen)
    save_head(tmp_path, head_of(name, context, made), made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.json", "head.safetensors"]
    head, again = load_head(tmp_path, trained)
    assert (head.protocol, head.classes) == (name, context.classes)
    np.testing.assert_array_equal(protocols.scores(again, test), score_rc)


def test_records_are_scored_one_by_one(fitted, splits):
    name, made = fitted
    test = splits["test"]
    alone = test.only(test.row_r[2:3])
    np.testing.assert_allclose(made.predict(alone)[0], made.predict(test)[2], atol=1e-5, err_msg=name)


def test_a_spoilt_head_is_refused_in_one_line(fitted, context, trained, tmp_path):
    name, made = fitted
    save_head(tmp_path, head_of(name, context, made), made)
    about, arrays = (tmp_path / "head.json").read_text(), load_file(tmp_path / "head.safetensors")
    first = sorted(arrays)[0]

    def refused(*, changed=None, **changes):
        (tmp_path / "head.json").write_text(json.dumps({**json.loads(about), **changes}))
        save_file({**arrays, **(changed or {})} if changed is not Ellipsis else {}, tmp_path / "head.safetensors")
        with pytest.raises(CheckpointError) as error:
            load_head(tmp_path, trained)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)
        return str(error.value)

    assert "unknown protocol 'os'" in refused(protocol="os")
    hostile = tmp_path / "hostile.py"
    hostile.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "unknown protocol" in refused(protocol=str(hostile))
    assert not (tmp_path / "ran").exists(), "a head may not name a file to be run"
    assert "classes" in refused(classes=[])
    assert "classes" in refused(classes=["MI", "MI"])
    assert "window_samples" in refused(window_samples=0)
    refused(classes=["MI"])
    refused(changed=Ellipsis)
    refused(changed={"more": np.zeros(3, np.float32)})
    refused(changed={first: np.zeros((1, 2, 3, 4), np.float32)})
    refused(changed={first: np.full_like(arrays[first], np.nan)})
    (tmp_path / "head.safetensors").write_bytes(b"no head")
    (tmp_path / "head.json").write_text(about)
    with pytest.raises(CheckpointError, match="the head can't be loaded"):
        load_head(tmp_path, trained)


def test_nothing_is_computed_before_it_is_asked_for(splits, store, trained, targets, monkeypatch):
    asked = []

    class Counted(GivenFeatures):
        def pooled(self):
            asked.append(1)
            return super().pooled()

    rows = splits["train"].row_r
    features = WindowFeatures(np.zeros((len(rows), 3), np.float32), rows)
    split = Split.of(rows, targets, store.column("patient_key"), Counted(features))
    part = split.only(rows[:4]).labelled_share(1.0, 0)
    assert asked == []
    assert len(part.features_nd) == len(part.features_nd) == 4
    assert asked == [1], "computed once"
    for what in (split.tokens, split.signals):
        with pytest.raises(ProtocolError, match="which are not given here"):
            list(what())
    with pytest.raises(ProtocolError, match="which are not given here"):
        split.feed()


def test_the_forms_of_a_window_agree(splits, trained):
    part = splits["train"].only(splits["train"].row_r[1:4])
    tokens_bsd = torch.cat([tokens for tokens, _ in part.tokens(5)])
    rows = np.concatenate([rows for _, rows in part.tokens(5)])
    np.testing.assert_array_equal(rows, part.record_row_n)
    with torch.no_grad():
        again = [trained.backbone(x_blt) for x_blt, _ in part.signals(5)]
    assert torch.equal(tokens_bsd, torch.cat([features.tokens_bsd for features in again]))
    np.testing.assert_allclose(torch.cat([one.pooled_bd for one in again]), part.features_nd, atol=1e-5)


def test_a_patient_on_two_sides_is_refused_before_anything_is_fitted(splits, context, monkeypatch):
    monkeypatch.setattr(occupant(ROOM, "linear_probe"), "fit", None)
    settings = settings_of("linear_probe", {}, where="here")
    with pytest.raises(LeakageError, match="training and test"):
        protocols.fit(splits["train"], splits["validation"], settings, context, test=splits["train"])


@pytest.mark.parametrize("said", [np.zeros((1, 1)), np.full((8, 5), np.nan)])
def test_a_protocol_that_leaves_scores_out_is_refused(splits, context, said):
    class Silent(Fitted):
        def predict(self, split):
            return said

        def arrays(self):
            return {}

    with pytest.raises(ProtocolError, match="score"):
        protocols.scores(Silent(classes=context.classes[:5]), splits["test"])


# ── what trains a network, and what looks at tokens, fit the same contract ────────────────────────


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned(Fitted):
    """A network of its own, judged on whole records."""

    network: nn.Module
    head: nn.Module

    def predict(self, split):
        said, rows = [], []
        with torch.no_grad():
            for x_blt, row_b in split.signals():
                said.append(torch.sigmoid(self.head(self.network(x_blt).pooled_bd)).numpy())
                rows.append(row_b)
        return tile_average(np.concatenate(said), np.concatenate(rows))[0]

    def arrays(self):
        parts = {"network": self.network, "head": self.head}
        return {f"{n}.{key}": v.numpy() for n, part in parts.items() for key, v in part.state_dict().items()}


def fine_tune(train, context, network, n_steps=3, lr=1e-2):
    """Gradients through the whole network, on windows drawn at random."""
    feed = train.feed()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        head = nn.Linear(network.pooled_width, len(context.classes))
    optimiser = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=lr)
    network.train()
    for step in range(n_steps):
        plan = batch_plan(feed.records, window_samples=feed.window_samples, seed=context.seed, step=step, batch_size=8)
        batch = feed.batch(plan)
        y_bc = torch.from_numpy(train.targets_of(batch.rows_b).astype(np.float32))
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(head(network(context.normalise(batch)).pooled_bd), y_bc).backward()
        optimiser.step()
    network.eval()
    return Tuned(classes=context.classes, n_train=len(train.row_r), network=network, head=head)


@pytest.mark.parametrize("begin", ["network", "untrained"])
def test_a_network_is_tuned_on_the_windows_and_the_representation_stays(splits, context, trained, tmp_path, begin):
    before = {name: value.clone() for name, value in trained.backbone.state_dict().items()}
    made, again = (fine_tune(splits["train"], context, getattr(context, begin)()) for _ in range(2))
    score_rc = protocols.scores(made, splits["test"])
    assert score_rc.shape == (8, len(context.classes))
    np.testing.assert_array_equal(protocols.scores(again, splits["test"]), score_rc)
    after = made.network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(before[name], value) for name, value in trained.backbone.state_dict().items())
    save_head(tmp_path, head_of("linear_probe", context, made), made)
    assert set(load_file(tmp_path / "head.safetensors")) >= {"head.weight", "head.bias"}


def test_scratch_begins_with_fresh_weights_of_the_same_network(context, trained):
    one, other = context.untrained(), context.untrained()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert one.state_dict().keys() == trained.backbone.state_dict().keys()
    assert any(not torch.equal(value, trained.backbone.state_dict()[name]) for name, value in one.state_dict().items())
