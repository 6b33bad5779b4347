"""Two examples or more for each verb: they stand below its ``--help``, and tests let click read them."""

from __future__ import annotations

import textwrap

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "completion": (
        "ecgstore completion bash > ~/.local/share/bash-completion/completions/ecgstore",
        "ecgstore completion zsh >> ~/.zshrc",
        "ecgstore completion fish > ~/.config/fish/completions/ecgstore.fish",
    ),
    "ingest": (
        "ecgstore ingest ptbxl ptbxl.ecg",
        "ecgstore ingest recordings hospital.ecg --labels labels.csv --statements diagnosis --resume",
        "ecgstore ingest ptbxl ptbxl-250.ecg --fs 250 --bandpass 0.5 40 --notch 50 --workers 8",
    ),
    "seal": ("ecgstore seal hospital.ecg", "ecgstore seal /scratch/mimic.ecg --source /data/mimic --json"),
    "scan": (
        "ecgstore scan recordings --labels labels.csv --statements diagnosis",
        "ecgstore scan /data/mimic --scan-table mimic.scan.parquet --workers 8",
    ),
    "augment": (
        "ecgstore augment ptbxl.ecg ptbxl-muscle6.ecg --noise muscle --snr 6",
        "ecgstore augment ptbxl.ecg ptbxl-level3.ecg --noise physiological --level 3 --seed 1",
    ),
    "beats": (
        "ecgstore beats ptbxl.ecg ptbxl-beats.ecg",
        "ecgstore beats mitdb.ecg mitdb-beats.ecg --beats annotated",
    ),
    "withdraw": (
        "ecgstore withdraw hospital.ecg hospital-v2.ecg --patient P-17",
        "ecgstore withdraw hospital.ecg hospital-v2.ecg --list withdrawn.txt --skip-unknown",
    ),
    "subset": (
        "ecgstore subset ptbxl.ecg af.ecg --code scp_ecg:AFIB,AFLT --leads I,II",
        "ecgstore subset ptbxl.ecg women.ecg --where \"sex == 'female'\"",
    ),
    "merge": (
        "ecgstore merge ward1.ecg ward2.ecg hospital.ecg",
        "ecgstore merge ptbxl.ecg cinc2021.ecg both.ecg --workers 4 --json",
    ),
    "export": ("ecgstore export ptbxl.ecg --wfdb ptbxl-wfdb", "ecgstore export ptbxl.ecg --meds ptbxl-meds"),
    "simulate": (
        "ecgstore simulate cohort --records 900 --seed 0",
        "ecgstore simulate origins --kind vt --records 500",
    ),
    "split": (
        "ecgstore split hospital.ecg --stratify diagnosis",
        "ecgstore split cinc2021.ecg --site --out by-site.parquet",
    ),
    "info": ("ecgstore info ptbxl.ecg", "ecgstore info ptbxl.ecg --json"),
    "verify": ("ecgstore verify ptbxl.ecg", "ecgstore verify ptbxl.ecg --deep --json"),
    "records": (
        'ecgstore records ptbxl.ecg --code AFIB --where "age_years > 80"',
        "ecgstore records hospital.ecg --rejected",
    ),
    "report": ("ecgstore report hospital.ecg", "ecgstore report hospital.ecg --out report.html --pages 3"),
    "plot": (
        "ecgstore plot ptbxl.ecg 145 --out page.png",
        "ecgstore plot mitdb.ecg 100 --out page.pdf --start 60 --seconds 20",
        "ecgstore plot ptbxl.ecg 145 --out page.pdf --layout 6x2 --speed 50 --gain 5",
    ),
    "view": (
        "ecgstore view ptbxl.ecg",
        "ecgstore view ptbxl.ecg --raw ptbxl-raw.ecg --predictions predictions.parquet --no-browser --port 8765",
    ),
    "overlap": (
        "ecgstore overlap ptbxl.ecg cinc2021.ecg --json",
        "ecgstore overlap ptbxl.ecg --folds 1,2,3,4,5,6,7,8 --with-folds 9,10",
    ),
    "scrub-check": ("ecgstore scrub-check hospital.ecg", "ecgstore scrub-check hospital.ecg --json"),
    "card": ("ecgstore card hospital.ecg", "ecgstore card hospital.ecg --from card.yaml"),
    "sidecar add": (
        "ecgstore sidecar add hospital.ecg troponin.csv",
        "ecgstore sidecar add hospital.ecg troponin-v2.csv --name troponin --overwrite",
    ),
    "sidecar list": ("ecgstore sidecar list hospital.ecg", "ecgstore sidecar list hospital.ecg --json"),
    "sidecar remove": (
        "ecgstore sidecar remove hospital.ecg troponin",
        "ecgstore sidecar remove hospital.ecg troponin --json",
    ),
    "fetch": ("ecgstore fetch --list", "ecgstore fetch ptb-xl ptbxl", "ecgstore fetch ptb-xl ptbxl --dry-run"),
    "push": (
        "ecgstore push ptbxl.ecg s3://team/ptbxl@v1",
        "ecgstore push hospital.ecg /mnt/shared/hospital@2026-11",
    ),
    "pull": (
        "ecgstore pull s3://team/ptbxl@v1 ptbxl.ecg",
        "ecgstore pull s3://team/ptbxl@v2 ptbxl-v2.ecg --base ptbxl-v1.ecg",
    ),
    "copy": (
        "ecgstore copy s3://team/ptbxl /mnt/backup/ptbxl",
        "ecgstore copy s3://team/ptbxl /mnt/backup/ptbxl --only v2",
    ),
    "tag": (
        "ecgstore tag s3://team/ptbxl stable FINGERPRINT",
        "ecgstore tag s3://team/ptbxl main FINGERPRINT --from OLD",
    ),
    "log": ("ecgstore log s3://team/ptbxl", "ecgstore log /mnt/shared/ptbxl@main --json"),
    "remote": ("ecgstore remote s3://team/ptbxl", "ecgstore remote https://example.org/ptbxl@v1 --json"),
    "diff": (
        "ecgstore diff s3://team/ptbxl@v1 s3://team/ptbxl@v2",
        "ecgstore diff hospital.ecg hospital-v2.ecg --json",
    ),
    "repair": (
        "ecgstore repair ptbxl.ecg --from s3://team/ptbxl",
        "ecgstore repair ptbxl.ecg --from s3://team/ptbxl@v1 --json",
    ),
}


def add_examples(group: click.Group) -> None:
    """Let each verb of ``group`` end its help with its examples; `verb below` is a verb of a group in it."""
    for words, lines in EXAMPLES.items():
        command: click.Command = group
        for word in words.split():
            assert isinstance(command, click.Group)
            command = command.commands[word]
        command.epilog = "\n".join(["\b", "Examples:", *(f"  {_in_columns(line)}" for line in lines)])


def _in_columns(command: str) -> str:
    """A command that fits a terminal of 80 columns, and can still be copied."""
    return " \\\n      ".join(textwrap.wrap(command, 70, break_long_words=False, break_on_hyphens=False))
