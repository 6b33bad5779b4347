"""Draw docs/images/vt.png: how beats of four origins spread in one virtual patient, and their twelve leads.

python docs/make_vt_picture.py
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgstore.record import LEADS_12
from ecgstore.simulate import dipole, ectopy, torso, ventricles

PICTURE = Path(__file__).parent / "images" / "vt.png"
SEED, FS_HZ, DURATION_S = 4, 500, 1.4
#: Site, layer, and what to call it.
ORIGINS = (
    ("RVOT_septal", ventricles.ENDO, "outflow tract of the right ventricle"),
    ("LV_mid_anterolateral", ventricles.EPI, "lateral wall of the left ventricle"),
    ("LV_apex", ventricles.ENDO, "apex"),
    ("LV_mid_anteroseptal", ventricles.ENDO, "septum"),
)
#: Leads are drawn in two columns, each so many mV below the one above.
BELOW_MV = 2.1
INK, ECTOPIC = "#1f3b57", "#c1272d"


def patient() -> ectopy.Patient:
    """Somebody whose heart has no scar."""
    return ectopy.draw_patient(np.random.Generator(np.random.Philox(SEED)), scars=0)


def signal_mv(one: ectopy.Patient, made: ectopy.Model, ectopic_s: np.ndarray) -> tuple[np.ndarray, ectopy.Beats]:
    """A sinus beat and an ectopic one, without noise: (12, samples)."""
    beats = ectopy.Beats(np.array([0.24, 0.74]), np.array([0.8, 0.5]), np.array([False, True]))
    n_samples = round(DURATION_S * FS_HZ)
    weights = ectopy.transfer(one, made.heart, np.zeros((len(torso.ELECTRODES), 2)))
    heart_mv = ectopy.ventricular_mv(one, made, weights, ectopic_s, beats, FS_HZ, n_samples)
    heart_mv = heart_mv + ectopy.atrial_mv(one, beats, FS_HZ, n_samples)
    return dipole.twelve_leads(dipole.MONTAGE @ heart_mv), beats


def draw_map(axes: Axes, one: ectopy.Patient, made: ectopy.Model, at_s: np.ndarray, origin: int) -> object:
    """The heart as the chest electrodes see it: its outside coloured by when the wave arrives."""
    body_mm = made.heart.xyz_mm @ ectopy.axes(one)
    outside = made.heart.layer == ventricles.EPI
    order = np.flatnonzero(outside)[np.argsort(-body_mm[outside, 2])]
    dots = axes.scatter(
        *(body_mm[order, :2].T), c=1000 * at_s[order], s=22, cmap="turbo_r", vmin=0, vmax=180, linewidths=0
    )
    axes.plot(*body_mm[origin, :2], marker="*", color="white", markeredgecolor="black", markersize=15)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return dots


def draw_leads(axes: Axes, signal_mv_lt: np.ndarray, beats: ectopy.Beats) -> None:
    """Limb leads on the left, chest leads on the right; the ectopic beat in red."""
    time_s = np.arange(signal_mv_lt.shape[1]) / FS_HZ
    is_ectopic = (time_s >= beats.onset_s[1]) & (time_s < beats.onset_s[1] + 0.55)
    for number, (lead, row_mv) in enumerate(zip(LEADS_12, signal_mv_lt, strict=True)):
        right, down = 1.15 * DURATION_S * (number // 6), BELOW_MV * (number % 6)
        axes.plot(time_s + right, row_mv - down, color=INK, linewidth=1.0)
        axes.plot(time_s[is_ectopic] + right, row_mv[is_ectopic] - down, color=ECTOPIC, linewidth=1.4)
        axes.text(right + 0.02, 0.35 - down, lead, fontsize=8, family="monospace")
    axes.plot([0, 0], [-BELOW_MV * 5.8, -BELOW_MV * 5.8 + 1], color="black", linewidth=1.5)
    axes.plot([0, 0.2], [-BELOW_MV * 5.8] * 2, color="black", linewidth=1.5)
    axes.text(0.26, -BELOW_MV * 5.8, "1 mV, 200 ms", fontsize=7)
    axes.set_ylim(-BELOW_MV * 6, 1.6)
    axes.set_xlim(-0.2, 2.15 * DURATION_S)
    axes.axis("off")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Draw the picture."""
    one = patient()
    made = ectopy.model(one)
    figure = Figure(figsize=(14, 9.5), layout="constrained")
    panels = figure.subplots(2, len(ORIGINS), height_ratios=(1, 2.2))
    for (site, layer, words), column in zip(ORIGINS, panels.T, strict=True):
        its_mm = made.heart.xyz_mm[made.heart.site == site].mean(axis=0)
        among = (made.heart.site == site) & (made.heart.layer == layer)
        origin = ventricles.nearest_point(made.heart, its_mm, among)
        at_s = ectopy.ectopic_activation_s(one, made, origin)
        dots = draw_map(column[0], one, made, at_s, origin)
        column[0].set_title(f"{site}\n{words}, {1000 * at_s.max():.0f} ms", fontsize=9, loc="left")
        draw_leads(column[1], *signal_mv(one, made, at_s))
    figure.colorbar(dots, ax=panels[0], label="activation, ms", shrink=0.8)
    figure.savefig(PICTURE, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
