from __future__ import annotations

import pytest
import torch

from ecgtrain.training.watcher import UNTRAINED, Watcher

N_STEPS, WARMUP = 100, 20


def spread_out(n_directions=16, seed=0):
    made = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(seed))
    made[:, :, n_directions:] = 0
    return made


def alike(of=1e-3):
    return torch.ones(1, 64, 16) + of * spread_out()


def watched(shown, *, aside=False, untrained=None, before=None):
    """The lines of a run whose features are those of ``shown`` at each step that is logged."""
    lines = []
    with Watcher(
        lambda *line: lines.append(line), N_STEPS, WARMUP, {} if before is None else before, aside=aside
    ) as watcher:
        if before is None:
            watcher.look(0, UNTRAINED, {}, untrained)
        for done, features_vbd in shown.items():
            watcher.look(done, "train", {"loss": float(done)}, features_vbd)
            watcher.due(everything=False)
        watcher.due(everything=True)
    return lines


@pytest.mark.parametrize(
    ("untrained", "collapsed"),
    [(spread_out(), alike()), (spread_out(), spread_out(1)), (alike(), alike()), (alike(0.3), alike(0.02))],
)
def test_a_collapse_is_told_once_and_not_before_warm_up(untrained, collapsed, caplog):
    watched({10: collapsed, 20: collapsed, 30: spread_out()}, untrained=untrained)
    assert not caplog.messages, "in warm-up only"
    watched({10: collapsed, 30: collapsed, 40: collapsed}, untrained=untrained)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("step 30: ")
    assert "untrained" in caplog.messages[0]
    assert "collapse" in caplog.messages[0]


@pytest.mark.parametrize("features_vbd", [spread_out(), spread_out(1), alike(0.01), spread_out(3), None])
def test_features_that_lie_as_they_did_untrained_are_no_collapse(features_vbd, caplog):
    lines = watched({30: features_vbd, 60: features_vbd}, untrained=features_vbd)
    assert not caplog.messages
    assert [line[:2] for line in lines if line[1] == "train"] == [(30, "train"), (60, "train")]


def test_a_run_that_goes_on_is_compared_with_its_beginning(caplog):
    """What was untrained is read back; it is not what the network looks like when it goes on."""
    watched({60: alike(0.02)}, before={"feature_std": 0.02, "effective_rank": 10.0})
    assert not caplog.messages
    watched({60: alike(0.02)}, before={"feature_std": 0.9, "effective_rank": 10.0})
    assert len(caplog.messages) == 1


def test_beside_the_training_the_same_is_written_in_the_same_order():
    shown = {done: spread_out(seed=done) for done in range(10, 60, 10)} | {60: None}
    at_once, aside = (watched(shown, untrained=alike(), aside=aside) for aside in (False, True))
    assert [line[0] for line in at_once] == [0, 10, 20, 30, 40, 50, 60]
    assert aside == at_once
    assert at_once[0][1:] == (UNTRAINED, at_once[0][2])
    assert set(at_once[1][2]) == {"loss", "feature_std", "effective_rank"}
