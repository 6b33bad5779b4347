"""How fast each method trains, as a share of what the machine can do; and CPC's loss against a loop over time steps.

Every small recipe goes through ``ecgtrain bench`` on a synthetic store, each in a process of its own: windows/s of the
step alone and of the whole loop, and the share of a large matrix product's rate. For CPC at its published size (512
features, two LSTM layers of 512, 32 windows of 1,000 samples) one step is timed twice, with the loss of
``ecgtrain.methods.cpc`` and with the same loss written as published code has it: a loop over time steps that gathers
the negatives of each. Both start from the same weights and the same draws, and must come to the same loss. The loop
keeps every step's negatives for the backward pass, which takes about 17 GB for all 988 terms; ``--terms N`` runs N of
them, spread over the window, and scales the time of these up. The time of network and optimiser is measured once and
counted for both.

    python benchmarks/step.py [--method simclr] [--store STORE] [--terms 60] [--json]

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# OpenMP threads that spin for long while they wait would fight other processes for the cores. Before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import click
import torch
from torch import Tensor

from ecgstore import IngestSettings, ingest_folder
from ecgstore.inner import keep_freed_memory
from ecgstore.sources import synthetic
from ecgtrain import config, recipes
from ecgtrain.backbones import cpc_lstm
from ecgtrain.config import Optimiser
from ecgtrain.methods import build_objective, cpc
from ecgtrain.training import optim
from ecgtrain.training.bench import bench
from ecgtrain.training.environment import environment
from ecgtrain.training.step import layers
from ecgtrain.views.draw import Draw

RECIPES = recipes.RECIPES / "small"
N_WINDOWS, N_LEADS, N_SAMPLES = 32, 12, 1000


def published_loop(
    predicted_bsd: Tensor, latents_bsd: Tensor, negatives_bsn: Tensor, ahead: int, steps: list[int]
) -> Tensor:
    """The loss of :func:`ecgtrain.methods.cpc.info_nce` at ``steps``, one after the other; summed over them."""
    total = predicted_bsd.new_zeros(())
    window_b1 = torch.arange(len(latents_bsd))[:, None]
    for t in steps:
        positive_bd = latents_bsd[:, t + ahead]
        negative_bnd = latents_bsd[window_b1, negatives_bsn[:, t]]
        candidates = torch.cat([positive_bd[:, None], negative_bnd], dim=1)
        logits_bn = (candidates * predicted_bsd[:, t, None]).sum(dim=2)
        total = total + torch.nn.functional.cross_entropy(logits_bn, torch.zeros(len(logits_bn), dtype=torch.int64))
    return total


def cpc_step(terms: int, repeats: int) -> dict[str, Any]:
    """Seconds of one step of CPC at its published size, by parts and by way of computing the loss."""
    settings = cpc.Settings()
    objective = build_objective(settings, cpc_lstm.Settings(), N_LEADS, seed=0)
    optimiser = optim.build(Optimiser(lr=1e-12), layers(objective))
    x_blt = torch.randn(N_WINDOWS, N_LEADS, N_SAMPLES, generator=torch.Generator().manual_seed(0))
    ahead = settings.steps_ahead
    n_terms = N_SAMPLES - ahead
    steps = torch.linspace(0, n_terms - 1, min(terms, n_terms)).round().to(torch.int64).tolist()
    network, vectorised, looped, losses = [], [], [], []
    for _ in range(repeats):
        began_s = time.perf_counter()
        latents_bsd = objective.backbone.encode(x_blt)
        predicted_bsd = objective.projections[0](objective.backbone.context(latents_bsd)[:, :-ahead])
        forward_s = time.perf_counter() - began_s
        of_latents, of_predicted = (one.detach().requires_grad_() for one in (latents_bsd, predicted_bsd))

        began_s = time.perf_counter()
        negatives_bsn = cpc.draw_negatives(Draw(0), torch.arange(N_WINDOWS), N_SAMPLES, ahead, settings.n_negatives)
        draw_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        loss_bs, _ = cpc.info_nce(of_predicted, of_latents, negatives_bsn, ahead)
        loss_bs.mean(dim=0).sum().backward()
        vectorised.append(draw_s + time.perf_counter() - began_s)
        gradients = of_predicted.grad, of_latents.grad

        began_s = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([predicted_bsd, latents_bsd], gradients)
        optimiser.step()
        network.append(forward_s + time.perf_counter() - began_s)

        of_latents, of_predicted = (one.detach().requires_grad_() for one in (latents_bsd, predicted_bsd))
        began_s = time.perf_counter()
        loss = published_loop(of_predicted, of_latents, negatives_bsn, ahead, steps)
        loss.backward()
        looped.append(draw_s + (time.perf_counter() - began_s) * n_terms / len(steps))
        losses.append((loss.item(), loss_bs.mean(dim=0)[steps].sum().item()))
    assert all(abs(one - other) < 1e-3 * other for one, other in losses), losses
    network_s, vectorised_s, looped_s = map(statistics.median, (network, vectorised, looped))
    return {
        "network_and_optimiser_s": network_s,
        "loss_s": {"vectorised": vectorised_s, "loop": looped_s},
        "terms": n_terms,
        "terms_of_loop_timed": len(steps),
        "turns": repeats,
        "records_per_s": {
            "vectorised": N_WINDOWS / (network_s + vectorised_s),
            "loop": N_WINDOWS / (network_s + looped_s),
        },
        "loss_ratio": looped_s / vectorised_s,
        "ratio": (network_s + looped_s) / (network_s + vectorised_s),
    }


def of_recipe(name: str, store: Path, device: str, seconds: float) -> dict[str, Any]:
    """What ``ecgtrain bench`` finds."""
    keep_freed_memory()  # as the command line does
    return bench(config.load(RECIPES / f"{name}.yaml", [f"data.store={store}"]), device=device, seconds=seconds)


def store_of(folder: Path) -> Path:
    """A store of 600 synthetic records of 10 s at 100 Hz."""
    synthetic.simulate(folder / "cohort", synthetic.Simulation(n_records=600))
    ingest_folder(folder / "cohort", folder / "cohort.ecg", IngestSettings(fs_hz=100, filters=()), workers=2)
    return folder / "cohort.ecg"


def _for(device: str) -> set[str]:
    """Small recipes that are made for such a device: those in half precision are for a GPU."""
    of = {path.stem: config.load(path).pretrain for path in RECIPES.glob("*.yaml")}
    return {name for name, its in of.items() if device == "cuda" or (its and its.precision == "float32")}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--method", "methods", multiple=True, help="Only these small recipes, by name; `none` for none.")
@click.option("--store", type=click.Path(exists=True, path_type=Path), help="Train on this store instead.")
@click.option("--seconds", default=5.0, show_default=True, help="Time per measurement.")
@click.option("--terms", default=60, show_default=True, help="Time steps of the published loop; 988 are all.")
@click.option("--repeats", default=3, show_default=True, help="Turns of CPC's step; the median counts.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but the JSON line.")
def main(
    methods: tuple[str, ...], store: Path | None, seconds: float, terms: int, repeats: int, device: str, as_json: bool
) -> None:
    """Measure how fast each method trains, and CPC's loss against a loop over time steps."""
    keep_freed_memory()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ecgtrain-step-") as folder:
        names = [path.stem for path in sorted(RECIPES.glob("*.yaml")) if path.stem in (methods or _for(device))]
        trained_on = store or (store_of(Path(folder)) if names else None)
        for name in names:
            # The peak of one must not be hidden by what another left behind.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                found[name] = one = process.submit(of_recipe, name, trained_on, device, seconds).result()
            if not as_json:
                step, whole = one["step"], one["loop"]
                click.echo(
                    f"{name:12} step {step['windows_per_s']:8.1f} windows/s, {step['of_ceiling']:4.0%} of the matrix "
                    f"rate; loop {whole['windows_per_s']:8.1f}, waiting {whole['waiting']:.2%}"
                )
    made: dict[str, Any] = {"benchmark": "step", "machine": environment(device), "recipes": found}
    if repeats:
        made["cpc_published"] = its = cpc_step(terms, repeats)
        if not as_json:
            rates = its["records_per_s"]
            click.echo(f"CPC, published size: {rates['vectorised']:.2f} records/s, as a loop {rates['loop']:.2f}")
            if its["terms_of_loop_timed"] < its["terms"]:
                click.echo(f"(of the loop, {its['terms_of_loop_timed']} of {its['terms']} time steps were timed)")
            click.echo(f"{its['ratio']:.1f} times as fast; the loss alone {its['loss_ratio']:.0f} times")
    click.echo(json.dumps(made))


if __name__ == "__main__":
    main()
