"""What every recipe, method and backbone promises: a new file is tested by being there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from processes import said_by_ranks
from quickly import quickly

from ecgstore import ConfigError, open_store
from ecgstore.inner import occupant, occupants
from ecgtrain import cli, config, distributed, tasks
from ecgtrain.data.feed import open_feed
from ecgtrain.methods import Moment, WindowBatch, build_objective
from ecgtrain.recipes import about, shipped
from ecgtrain.training.step import layers
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import normalise, to_mv

ROOT = Path(__file__).parents[2]
RECIPES = sorted(shipped())
SMALL = [name for name in RECIPES if name.startswith("small/")]
N = 8
#: One that compares windows with each other, one that compares places in time, one that restores what is hidden.
TELLING = ("small/simclr", "small/cpc", "small/mae")


@cache
def load(name):
    return config.load(name)


def targets_of(settings, store):
    task = getattr(settings.method, "task", None)
    return None if task is None else tasks.load(task).targets(store)


def objective_of(name, store):
    made = load(name)
    settings = made.pretrain
    n_leads = len(made.data.leads or store.leads)
    targets = targets_of(settings, store)
    n_targets = None if targets is None else len(targets.classes)
    return build_objective(settings.method, settings.backbone, n_leads, made.seed, n_targets)


def windows(name, store, rows=slice(0, N)):
    """Windows of the first records, as the feed hands them over."""
    made = load(name)
    settings = made.pretrain
    n_samples = min(settings.window_samples, 1000)
    feed = open_feed(
        store, store.select(folds=range(1, 9))[:N], window_samples=n_samples, leads=made.data.leads or store.leads
    )
    counts_blt = torch.from_numpy(feed.cache.windows(*whole(N)[:2])).transpose(1, 2)[rows]
    targets = targets_of(settings, store)
    return WindowBatch(
        to_mv(counts_blt),
        torch.arange(100, 100 + N)[rows],
        store.fs_hz,
        lambda mv: normalise(mv, "record"),
        Draw(1),
        7,
        None if targets is None else torch.from_numpy(targets.y_nc[feed.rows_n].astype("float32"))[rows],
    )


def whole(n):
    import numpy as np

    return np.arange(n), np.zeros(n, dtype=np.int64)


def views_of(name, store, rows=slice(0, N)):
    method = load(name).pretrain.method
    return occupant("ecgtrain.methods", method.name).views(method, windows(name, store, rows))


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


def test_every_method_has_a_small_recipe_and_every_room_says_what_is_in_it():
    assert {load(name).pretrain.method.name for name in SMALL} == set(occupants("ecgtrain.methods"))
    for room in ("methods", "backbones"):
        for name in occupants(f"ecgtrain.{room}"):
            its = occupant(f"ecgtrain.{room}", name)
            assert its.DESCRIPTION.strip()
            assert "\n" not in its.DESCRIPTION
            assert its.Settings.model_fields["name"].default == name
            assert its.Settings.__doc__


def test_every_method_has_a_page():
    for name in occupants("ecgtrain.methods"):
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
        for setting in occupant("ecgtrain.methods", name).Settings.model_fields:
            assert f"`{setting}" in page or setting == "name", f"{name}: {setting}"


def test_recipes_are_listed_with_source_and_cost():
    listed = CliRunner().invoke(cli.main, ["recipes", "--json"])
    assert [one["name"] for one in json.loads(listed.output)] == list(shipped())
    shown = CliRunner().invoke(cli.main, ["recipes"]).output
    assert "small/cpc\n" in shown
    assert shown.count("  source: ") == shown.count("  cost: ") == len(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole(name):
    made = load(name)
    text = config.find(name).read_text(encoding="utf-8")
    for word in ("source:", "cost:", "expect"):
        assert word in text.lower(), word
    said = about(name)
    assert all(said)
    assert all(len(part) < 200 for part in said)
    assert made.pretrain is not None
    # What is judged was not seen while pretraining.
    for question in made.downstream:
        assert not set(question.test_folds) & {*made.pretrain.folds, *made.pretrain.validation_folds}
    assert len({load(other).name for other in RECIPES}) == len(RECIPES)


#: Their networks take seconds to draw.
LARGE = ("ecg_jepa", "st_mem")


@pytest.mark.parametrize("name", quickly(RECIPES, *sorted({*RECIPES} - {*LARGE})))
def test_an_objective_fits_its_recipe_and_refuses_a_batch_of_one_if_it_compares(name, store):
    made = load(name)
    objective = objective_of(name, store)
    settings = made.pretrain
    objective.check(settings.window_samples, settings.batch_size, store.fs_hz)
    assert objective.backbone.n_leads == len(made.data.leads or store.leads)
    if objective.compares_windows:
        with pytest.raises(ConfigError):
            objective.check(settings.window_samples, 1, store.fs_hz)
    # Each parameter has one place among the layers, so that the optimiser has it once.
    placed = [parameter for layer in layers(objective) for parameter in layer]
    assert len(placed) == len({id(parameter) for parameter in placed}) == len(list(objective.parameters()))


@pytest.mark.learning
@pytest.mark.parametrize("name", quickly(SMALL, *TELLING))
def test_a_loss_teaches_the_backbone(name, store):
    objective = objective_of(name, store).train()
    terms = objective(views_of(name, store))
    assert terms.total.shape == ()
    assert terms.total.isfinite()
    assert terms.parts
    for part, value in terms.parts.items():
        assert value.shape == (), part
        assert value.isfinite(), part
        assert not value.requires_grad, part
    assert set(objective.chance) <= set(terms.parts)
    if terms.features_vbd is not None:
        assert terms.features_vbd.shape[1] == N
        assert not terms.features_vbd.requires_grad
    before = [parameter.detach().clone() for parameter in objective.backbone.parameters()]
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for step in range(2):
        moment = Moment(step, 2, 1)
        optimiser.zero_grad()
        objective(views_of(name, store)).total.backward()
        objective.before_step(moment)
        optimiser.step()
        objective.after_step(moment)
    changed = [not torch.equal(one, other) for one, other in zip(before, objective.backbone.parameters(), strict=True)]
    assert sum(changed) > 0.5 * len(changed)
    assert objective(views_of(name, store)).total.isfinite()


@pytest.mark.parametrize("name", quickly(SMALL, *TELLING))
def test_a_look_at_held_out_windows_leaves_no_trace(name, store):
    objective = objective_of(name, store).eval()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    with torch.no_grad():
        one, other = (objective(views_of(name, store)).total for _ in range(2))
    assert torch.equal(one, other)
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


@pytest.mark.parametrize("name", quickly(SMALL, *TELLING))
def test_weights_come_from_the_seed_and_go_through_a_checkpoint(name, store):
    one, other = objective_of(name, store), objective_of(name, store)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    for parameter in other.parameters():
        parameter.data.add_(1.0)
    other.load_state_dict(one.state_dict())
    made = views_of(name, store)
    one.eval(), other.eval()
    with torch.no_grad():
        assert torch.equal(one(made).total, other(made).total)


@pytest.mark.parametrize("name", SMALL)
def test_a_view_does_not_depend_on_the_rank_that_makes_it(name, store):
    everything, second_half = views_of(name, store), views_of(name, store, slice(N // 2, N))

    def tensors(made):
        for part in made:
            if isinstance(part, torch.Tensor):
                yield part
            elif isinstance(part, tuple | list):
                yield from tensors(part)

    compared = 0
    for of_all, of_half in zip(tensors(everything), tensors(second_half), strict=True):
        dims = [i for i, size in enumerate(of_all.shape) if size == N and of_half.shape[i] == N // 2]
        if dims:
            its = of_all.narrow(dims[0], N // 2, N // 2)
            assert torch.allclose(its.float(), of_half.float(), atol=1e-5)
            compared += 1
    assert compared


@pytest.mark.parametrize("name", quickly(SMALL, *TELLING))
def test_networks_in_bfloat16_keep_their_losses_in_float32(name, store):
    objective = objective_of(name, store).train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(views_of(name, store))
    assert terms.total.dtype == torch.float32
    assert terms.total.isfinite()


def on(device, made):
    if isinstance(made, torch.Tensor):
        return made.to(device)
    if isinstance(made, tuple) and hasattr(made, "_fields"):
        return type(made)(*(on(device, part) for part in made))
    return made


@pytest.mark.gpu
@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_makes_the_same_views_and_the_same_loss(name, store):
    method = load(name).pretrain.method
    cut = occupant("ecgtrain.methods", method.name).views
    its = windows(name, store)
    there = its._replace(
        mv=on("cuda", its.mv), sample_numbers_b=on("cuda", its.sample_numbers_b), targets_bc=on("cuda", its.targets_bc)
    )
    here = objective_of(name, store).eval()
    with torch.no_grad():
        expected = here(cut(method, its)).total.item()
        found = here.to("cuda")(cut(method, there)).total.item()
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)


# ── two ranks are one ─────────────────────────────────────────────────────────────────────────────


def gradients(name, store, rank=0, world=1):
    """One step's loss, and its gradient by parameter, with dropout out of the way."""
    objective = objective_of(name, store).double().train()
    for module in objective.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    objective = distributed.synchronise_batchnorm(objective)
    network = distributed.replicate(objective, unused_parameters=True)
    rows = slice(N * rank // world, N * (rank + 1) // world)
    made = double(views_of(name, store, rows))
    terms = network(made)
    terms.total.backward()
    mean = distributed.total(terms.total.detach()) / world
    return mean.item(), {
        key: parameter.grad for key, parameter in objective.named_parameters() if parameter.numel() < 20_000
    }


def double(made):
    if isinstance(made, torch.Tensor):
        return made.double() if made.is_floating_point() else made
    if isinstance(made, tuple) and hasattr(made, "_fields"):
        return type(made)(*(double(part) for part in made))
    if isinstance(made, tuple | list):
        return type(made)(double(part) for part in made)
    return made


ON_RANKS = """
import sys, torch
sys.path.insert(0, sys.argv[3])
import test_recipes as contract
from ecgstore import open_store
from ecgtrain import distributed
store = open_store(sys.argv[1])
with distributed.ranks("cpu"):
    found = {name: contract.gradients(name, store, distributed.rank(), distributed.world()) for name in sys.argv[4:]}
    if distributed.rank() == 0:
        torch.save(found, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.learning
def test_two_ranks_have_the_loss_and_the_gradient_of_one(mini_store, store, tmp_path):
    said_by_ranks(2, ON_RANKS, mini_store, tmp_path / "found.pt", Path(__file__).parent, *SMALL)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name in SMALL:
        loss, gradient = gradients(name, store)
        theirs_loss, theirs = found[name]
        # Losses are computed in float32, each rank's in an order of its own.
        assert theirs_loss == pytest.approx(loss, rel=1e-5, abs=1e-7), name
        largest = max(max_of(value) for value in gradient.values())
        for key, value in gradient.items():
            if value is None or theirs[key] is None:
                assert value is None or max_of(value) == 0, (name, key)
                continue
            assert torch.allclose(value, theirs[key], rtol=0, atol=1e-4 * largest), (name, key)


def max_of(value):
    return 0.0 if value is None else value.abs().max().item()
