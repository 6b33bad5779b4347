"""The verb that makes records of nobody: simulate."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from ecgstore.cli.printing import AS_JSON, plain_errors, progress_bars, say, say_json

#: Settings that only one kind of folder has, and the options that set them.
_OPTIONS_OF = {
    "diagnoses": {"generator": "--generator"},
    "vt": {"origins_per_patient": "--origins", "scars": "--scars", "fast_endocardium": "--fast-endocardium"},
}


@click.command(short_help="Write synthetic ECGs")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(list(_OPTIONS_OF)),
    default="diagnoses",
    show_default=True,
    help="What is known of a record: its diagnoses (PTB-XL's SCP-ECG codes), or where its ventricular beats begin "
    "(vt: virtual patients, several origins each).",
)
@click.option("--records", "n_records", type=click.IntRange(1), default=2000, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same folder to the byte."
)
@click.option("--fs", "fs_hz", type=float, default=500.0, show_default=True, metavar="HZ", help="Sampling rate.")
@click.option(
    "--duration",
    "duration_s",
    type=float,
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds per record.",
)
@click.option(
    "--generator",
    type=click.Choice(["dipole", "neurokit"]),
    help="Of diagnoses: our heart-dipole model, or neurokit2's simulator (slow, sinus rhythm only). Default: dipole.",
)
@click.option(
    "--origins",
    "origins_per_patient",
    type=int,
    metavar="N",
    help="Of vt: origins, and so records, per patient. Default: 5.",
)
@click.option(
    "--scars", type=float, metavar="SHARE", help="Of vt: share of patients with an infarct scar. Default: 0.3."
)
@click.option(
    "--fast-endocardium/--slow-endocardium",
    default=None,
    help="Of vt: whether ectopic beats spread faster along the endocardium. Default: fast.",
)
@AS_JSON
@plain_errors
def simulate(out: Path, kind: str, as_json: bool, **given: Any) -> None:
    """Write a WFDB folder of synthetic 12-lead ECGs whose truth is known."""
    from ecgstore.settings import parse
    from ecgstore.sources import synthetic, synthetic_vt

    settings = {name: value for name, value in given.items() if value is not None}
    for other, options in _OPTIONS_OF.items():
        for name, option in options.items():
            if other != kind and name in settings:
                raise click.UsageError(f"{option} is an option of --kind {other}, not of --kind {kind}")
    with progress_bars({"simulate": "simulating"}) as progress:
        told = functools.partial(progress, "simulate")
        if kind == "vt":
            synthetic_vt.simulate(out, parse(synthetic_vt.Simulation, settings), progress=told)
        else:
            synthetic.simulate(out, parse(synthetic.Simulation, settings), progress=told)
    if as_json:
        say_json({"path": str(out), "kind": kind, "records": given["n_records"]})
        return
    say(f"{given['n_records']} records in {out}; next: ecgstore ingest {out} {out}.ecg")


VERBS = (simulate,)
