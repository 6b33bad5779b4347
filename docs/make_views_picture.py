"""Draw docs/images/views.png: every augmentation on a real record, before and after.

    python docs/make_views_picture.py --noise-bank FOLDER

FOLDER holds NSTDB's records; get them with ``ecgstore fetch nstdb FOLDER``. Without it, recorded noise is left out.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.signal import resample_poly
from torch import Tensor

from ecgstore import IngestSettings, ingest_folder, load_bank, open_store
from ecgtrain.views.augmentations import AUGMENTATIONS, Augmentation, apply
from ecgtrain.views.draw import Draw
from ecgtrain.views.masking import LeadPermutation, SpanMask, mask_spans, permute_leads
from ecgtrain.views.noise import Powerline, RecordedNoise
from ecgtrain.views.normalise import Millivolts, to_mv

HERE = Path(__file__).parent
MINI = HERE.parent / "tests" / "data" / "ptbxl_mini"
PICTURE = HERE / "images" / "views.png"
FS_HZ, WINDOW_SAMPLES = 250.0, 1000
#: Two leads are drawn, the second so many mV below the first.
LEADS, BELOW_MV = ("II", "V2"), 2.5
#: Draws that show what an augmentation does: others are weaker, or nothing at all.
SEED = {
    "baseline_shift": 1,
    "permutation": 2,
    "lead_dropout": 1,
    "lead_scaling": 3,
    "powerline": 5,
    "baseline_wander": 4,
}
#: Stronger than by default, where the default would hardly be seen.
STRONG = {
    "powerline": {"max_mv": 0.5},
    "gaussian_noise": {"sigma_mv": 0.05},
    "down_sample": {"share": 0.5},
}
BEFORE, AFTER = "#b8b8b8", "#0b4f8a"


def banks(folder: Path | None) -> dict[str, Tensor]:
    """Recorded noise as augmentations take it: (signals, samples) of unit RMS at FS_HZ."""
    if folder is None:
        return {}
    made = {}
    for kind, recording in load_bank(folder).recordings.items():
        ratio = Fraction(FS_HZ / recording.fs_hz).limit_denominator(1000)
        wave_st = resample_poly(recording.counts_st.astype(float), ratio.numerator, ratio.denominator, axis=1)
        wave_st -= wave_st.mean(axis=1, keepdims=True)
        made[kind] = torch.from_numpy((wave_st / wave_st.std(axis=1, keepdims=True)).astype(np.float32))
    return made


def record() -> tuple[Millivolts, tuple[str, ...]]:
    """The first seconds of a bundled record, as a batch of one, and its leads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mini.ecg"
        ingest_folder(MINI, path, IngestSettings(fs_hz=FS_HZ, filters=()))
        store = open_store(path)
        shard = store.read_shard(0)
        counts_lt = np.ascontiguousarray(shard.counts_lt[:, :WINDOW_SAMPLES])
        return to_mv(torch.from_numpy(counts_lt)[None]), tuple(store.leads)


def draw_panel(axes: Axes, title: str, before_lt: Tensor, after: Millivolts, rows: list[int]) -> None:
    """Two leads, before and after; what is not recorded afterwards is left out."""
    time_s = np.arange(WINDOW_SAMPLES) / FS_HZ
    after_lt = after.x_blt[0].masked_fill(~after.recorded_blt[0], float("nan"))
    for place, row in enumerate(rows):
        axes.plot(time_s, before_lt[row].numpy() - place * BELOW_MV, color=BEFORE, linewidth=0.9)
        axes.plot(time_s, after_lt[row].numpy() - place * BELOW_MV, color=AFTER, linewidth=0.6)
    axes.set_title(title, fontsize=8, family="monospace", loc="left", pad=2)
    axes.set_xlim(0, time_s[-1])
    axes.set_ylim(-BELOW_MV - 1.7, 1.7)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#dddddd")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--noise-bank", type=click.Path(path_type=Path, exists=True), help="Folder with NSTDB's bw, ma and em.")
def main(noise_bank: Path | None) -> None:
    """Draw the picture."""
    before, leads = record()
    rows, numbers_b, noises = (
        [leads.index(lead) for lead in LEADS],
        torch.zeros(1, dtype=torch.int64),
        banks(noise_bank),
    )
    panels: list[tuple[str, Millivolts]] = []
    for name, kind in AUGMENTATIONS.items():
        settings: Augmentation = (
            kind(**STRONG.get(name, {}))
            if kind is not RecordedNoise
            else RecordedNoise(  # type: ignore[assignment]
                kind="nstdb-em", snr_db=(6.0, 6.0)
            )
        )
        if isinstance(settings, RecordedNoise) and settings.kind not in noises:
            continue
        assert not isinstance(settings, Powerline) or settings.mains_hz < FS_HZ / 2
        panels.append((name, apply(*before, Draw(SEED.get(name, 0)), numbers_b, settings, FS_HZ, noises)))
    masked = mask_spans(before.x_blt, Draw(0), numbers_b, SpanMask(), FS_HZ)
    panels.append(("mask_spans", Millivolts(masked.x_blt, ~masked.hidden_blt)))
    permuted = permute_leads(before.x_blt, Draw(1), numbers_b, LeadPermutation(probability=1))
    panels.append(("permute_leads", Millivolts(permuted.x_blt, before.recorded_blt)))
    figure = Figure(figsize=(12.5, 9.5), layout="constrained")
    grid = figure.subplots(5, 4)
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, (name, after) in zip(grid.flat, panels, strict=False):
        axes.set_visible(True)
        draw_panel(axes, name, before.x_blt[0], after, rows)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
