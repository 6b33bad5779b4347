"""Two examples or more for each verb: they stand below its ``--help``, and tests let click read them."""

from __future__ import annotations

import textwrap

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "completion": (
        "ecgtrain completion bash > ~/.local/share/bash-completion/completions/ecgtrain",
        "ecgtrain completion zsh >> ~/.zshrc",
        "ecgtrain completion fish > ~/.config/fish/completions/ecgtrain.fish",
    ),
    "run": (
        "ecgtrain run small/cpc --set data.store=ptbxl.ecg --out runs/cpc",
        "ecgtrain run my.yaml --out runs/own --resume --time-limit 3h",
    ),
    "evaluate": (
        "ecgtrain evaluate runs/cpc --store other.ecg",
        "ecgtrain evaluate runs/cpc --store hospital.ecg --folds all --out runs/cpc-on-hospital",
    ),
    "report": ("ecgtrain report runs/cpc", "ecgtrain report runs/cpc runs/byol --out comparison --pages 12"),
    "bench": (
        "ecgtrain bench small/cpc --set data.store=ptbxl.ecg",
        "ecgtrain bench my.yaml --seconds 30 --device cpu --json",
    ),
    "recipes": ("ecgtrain recipes", "ecgtrain recipes --json"),
    "show": ("ecgtrain show small/cpc", "ecgtrain show my.yaml --set pretrain.steps=2400 --json"),
    "init": ("ecgtrain init my.yaml --from small/cpc", "ecgtrain init ablations/short.yaml --from my.yaml"),
    "methods": ("ecgtrain methods", "ecgtrain methods --json"),
    "cache": ("ecgtrain cache list", "ecgtrain cache clear --dir /scratch/cache"),
    "export": (
        "ecgtrain export runs/own afib-model --name afib",
        "ecgtrain export runs/own afib-model --name afib --onnx",
    ),
    "predict": (
        "ecgtrain predict afib-model new-recordings --out predictions.parquet",
        "ecgtrain predict afib-model ptbxl.ecg --out predictions.parquet --device cpu",
    ),
    "embed": (
        "ecgtrain embed runs/own ptbxl.ecg --out features.parquet --folds 9,10",
        "ecgtrain embed runs/own ptbxl.ecg --out windows.parquet --per window",
    ),
}


def add_examples(group: click.Group) -> None:
    """Let each verb of ``group`` end its help with its examples."""
    for word, lines in EXAMPLES.items():
        group.commands[word].epilog = "\n".join(["\b", "Examples:", *(f"  {_in_columns(line)}" for line in lines)])


def _in_columns(command: str) -> str:
    """A command that fits a terminal of 80 columns, and can still be copied."""
    return " \\\n      ".join(textwrap.wrap(command, 70, break_long_words=False, break_on_hyphens=False))
