from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecgtrain.training import diagnostics
from ecgtrain.training.diagnostics import most_directions, online_probe, verdict, watch


def values(features_vbd):
    return {name: value.item() for name, value in watch(features_vbd).items()}


def in_plain_words(features_vbd):
    """The four definitions, one window after the other in float64."""
    first, second = (view.double().numpy() for view in features_vbd[:2])
    unit = np.array([row / np.sqrt((row**2).sum()) for row in first])
    other = np.array([row / np.sqrt((row**2).sum()) for row in second])
    n, d = unit.shape
    variance = [np.mean((unit[:, j] - unit[:, j].mean()) ** 2) for j in range(d)]
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh((first - first.mean(0)).T @ (first - first.mean(0))), 0))
    shares = [value / singular.sum() for value in singular]
    pairs = [math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(n) for j in range(i)]
    return {
        "feature_std": math.sqrt(np.mean(variance) * d),
        "effective_rank": math.exp(-sum(p * math.log(p) for p in shares if p > 0)),
        "alignment": np.mean([((a - b) ** 2).sum() for a, b in zip(unit, other, strict=True)]),
        "uniformity": math.log(np.mean(pairs)),
    }


def test_the_figures_are_their_definitions():
    features_vbd = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0) + 0.5
    plain = in_plain_words(features_vbd)
    found = values(features_vbd)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_features_spread_evenly():
    features_vbd = torch.randn(1, 512, 32, generator=torch.Generator().manual_seed(0))
    found = values(features_vbd)
    assert found["feature_std"] == pytest.approx(1, abs=0.01)
    assert 29 < found["effective_rank"] <= 32
    assert found.keys() == {"feature_std", "effective_rank"}, "one view has no alignment"
    assert verdict(found, found, most_directions(features_vbd)) is None


def test_collapse_is_seen():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(16, generator=generator) + 0.01 * torch.randn(2, 64, 16, generator=generator)
    found = values(one)
    assert found["feature_std"] < 0.05
    assert found["uniformity"] > -0.05
    assert "collapse" in verdict(found, {"feature_std": 0.3}, most_directions(one)), "less than a tenth is left"
    assert verdict(found, found, most_directions(one)) is None, "what all have in common is no collapse"
    equal = torch.ones(1, 64, 16) + 1e-3 * torch.randn(1, 64, 16, generator=generator)
    assert "collapse" in verdict(values(equal), {}, most_directions(equal))
    # All differences lie in one direction.
    line = torch.randn(64, 1, generator=generator) * torch.randn(16, generator=generator)
    assert values(line[None])["effective_rank"] == pytest.approx(1, abs=0.01)
    assert "dimensional collapse" in verdict(values(line[None]), {}, most_directions(line[None]))
    assert values(torch.zeros(2, 8, 4))["feature_std"] == 0
    assert all(math.isfinite(value) for value in values(torch.zeros(2, 8, 4)).values())


@pytest.mark.parametrize("n_windows", [2, 3, 4, 8])
def test_a_small_batch_shows_no_collapse(n_windows, seed):
    """Of few windows few directions can be seen: no reason to warn."""
    features_vbd = torch.randn(1, n_windows, 64, generator=torch.Generator().manual_seed(seed)) + 5
    found = values(features_vbd)
    assert verdict(found, found, most_directions(features_vbd)) is None


def test_scale_does_not_matter_and_no_gradient_is_kept():
    features_vbd = torch.randn(2, 30, 8, requires_grad=True)
    one, other = watch(features_vbd), watch(1000 * features_vbd)
    for name, value in one.items():
        assert not value.requires_grad
        assert value.item() == pytest.approx(other[name].item(), rel=1e-3)


def test_no_more_windows_are_looked_at_than_said():
    features_vbd = torch.randn(2, diagnostics.MOST_WINDOWS + 100, 4)
    assert values(features_vbd) == values(features_vbd[:, : diagnostics.MOST_WINDOWS])
    assert values(torch.randn(2, 1, 4)).keys() == {"feature_std", "effective_rank"}


def test_half_precision_features():
    features_vbd = torch.randn(2, 30, 8)
    assert values(features_vbd.bfloat16())["feature_std"] == pytest.approx(
        values(features_vbd)["feature_std"], rel=0.01
    )


def cohort(seed, n=400, d=200, signal=1.0):
    rng = np.random.default_rng(seed)
    y_nc = rng.uniform(size=(n, 3)) < 0.4
    features_nd = rng.standard_normal((n, d)).astype(np.float32)
    features_nd[:, :3] += signal * 3 * y_nc
    return features_nd * rng.uniform(0.1, 10, d).astype(np.float32), y_nc


@pytest.mark.learning
def test_a_quick_probe_finds_what_is_there_and_nothing_else(seed):
    assert online_probe(*cohort(seed, signal=2.0)) > 0.75
    assert online_probe(*cohort(seed, d=600, signal=2.0)) > 0.7, "more features than records"
    features_nd, y_nc = cohort(seed + 1, signal=2.0)
    shuffled = np.random.default_rng(seed + 2).permutation(y_nc)
    # An AUROC of 80 against 120 has a standard deviation of 0.04, the mean of three classes 0.024.
    assert abs(online_probe(features_nd, shuffled) - 0.5) < 0.12
    assert abs(np.mean([online_probe(*cohort(seed + k, signal=0.0)) for k in range(5)]) - 0.5) < 0.12 / math.sqrt(5)


def test_a_class_that_all_have_is_no_question():
    features_nd, y_nc = cohort(0)
    y_nc[:, 0] = True
    assert 0.5 < online_probe(features_nd, y_nc) < 1
    assert math.isnan(online_probe(features_nd, np.ones_like(y_nc)))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_features_that_are_no_numbers_stop_no_run(broken):
    features_vbd = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    features_vbd[0, 3, 2] = broken
    found = values(features_vbd)
    assert math.isnan(found["effective_rank"])
    assert verdict(found, found, most_directions(features_vbd)) is None
    features_nd, y_nc = cohort(0, n=40, d=6)
    features_nd[3, 2] = broken
    assert math.isnan(online_probe(features_nd, y_nc))


@pytest.mark.parametrize("value", [0.0, 3.3, 1e-30])
def test_a_quick_probe_of_dead_features_is_a_toss_up(value):
    _, y_nc = cohort(0, n=40)
    assert online_probe(np.full((40, 6), value, dtype=np.float32), y_nc) == 0.5


@pytest.mark.parametrize("n", range(4))
def test_too_few_records_are_no_question(n):
    features_nd, y_nc = cohort(0, n=40, d=6)
    assert math.isnan(online_probe(features_nd[:n], y_nc[:n]))
