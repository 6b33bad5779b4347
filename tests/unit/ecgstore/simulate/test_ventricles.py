"""The wave through the ventricles obeys the eikonal equation, and the chest the equations of a conductor."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore.simulate import torso, ventricles
from ecgstore.simulate.ventricles import EPI, LV, MID, RV, RVOT, Floats, Speeds

SPEED = Speeds(0.6, 0.6)


@pytest.fixture(scope="module")
def heart() -> ventricles.Ventricles:
    return ventricles.reference_heart()


def point(heart: ventricles.Ventricles, site: str) -> int:
    its = heart.site == site
    return ventricles.nearest_point(heart, heart.xyz_mm[its].mean(axis=0), its)


def test_the_heart_has_the_size_of_a_heart(heart: ventricles.Ventricles) -> None:
    left = heart.wall == LV
    assert 2000 < heart.n_points < 4000
    assert np.linalg.norm(heart.xyz_mm[left & (heart.layer == EPI)][:, :2], axis=1).max() == pytest.approx(
        31.5, abs=0.2
    )
    # Half a spheroid of radius a and length c has the volume 2/3 π a² c; Gauss gives it from its surface.
    flux_mm3 = float((heart.area_mm2[left] * heart.xyz_mm[left] / 3).sum())
    rim_mm3 = 0.0  # the base is at z = 0, where x·n is nothing
    muscle_mm3 = 2 / 3 * np.pi * (31.5**2 * 79.5 - 22.5**2 * 70.5)
    assert flux_mm3 + rim_mm3 == pytest.approx(muscle_mm3, rel=0.02)
    # The right wall lies outside the left one, in front of the septum; its outflow leads up.
    assert (heart.xyz_mm[heart.wall == RV][:, 0] < 0).all()
    assert heart.xyz_mm[heart.wall == RVOT][:, 1].max() > heart.xyz_mm[left][:, 1].max() + 15


def test_neighbours_are_near_and_mutual(heart: ventricles.Ventricles) -> None:
    assert 0 < heart.lengths_mm.min() < heart.lengths_mm.max() <= ventricles.REACH_MM
    assert (np.diff(heart.first) >= 8).all()
    there = set(zip(heart.rows.tolist(), heart.neighbours.tolist(), strict=True))
    assert all((b, a) in there for a, b in there)


def test_a_wave_begins_at_its_origin_and_reaches_all(heart: ventricles.Ventricles) -> None:
    origin = point(heart, "RV_mid")
    time_s = ventricles.activation_s(heart, SPEED, [origin], [0.0])
    assert time_s[origin] == 0
    assert (np.delete(time_s, origin) > 0).all()
    assert time_s.max() < 0.4


def test_the_gradient_of_time_is_one_over_speed(heart: ventricles.Ventricles) -> None:
    """|∇T| · speed = 1, by least squares over the neighbours of points in the middle of the wall."""
    time_s = ventricles.activation_s(heart, SPEED, [point(heart, "LV_basal_inferolateral")], [0.0])
    slopes = []
    for at in np.flatnonzero((heart.layer == MID) & (time_s > 0.03) & (time_s < 0.09)):
        near = heart.neighbours[heart.first[at] : heart.first[at + 1]]
        near = near[heart.wall[near] == LV]
        step_m = (heart.xyz_mm[near] - heart.xyz_mm[at]) / 1000
        gradient, *_ = np.linalg.lstsq(step_m, time_s[near] - time_s[at], rcond=None)
        slopes.append(np.linalg.norm(gradient) * SPEED.muscle)
    assert len(slopes) > 100
    assert np.median(slopes) == pytest.approx(1, abs=0.06)
    assert np.quantile(np.abs(np.array(slopes) - 1), 0.9) < 0.25


def test_no_wave_is_faster_than_its_speed(heart: ventricles.Ventricles) -> None:
    origin = point(heart, "LV_apex")
    time_s = ventricles.activation_s(heart, SPEED, [origin], [0.0])
    straight_mm = np.linalg.norm(heart.xyz_mm - heart.xyz_mm[origin], axis=1)
    assert (time_s * 1000 * SPEED.muscle >= straight_mm - 1e-9).all()


def test_ways_are_the_same_there_and_back_and_detours_are_longer(heart: ventricles.Ventricles) -> None:
    some = [point(heart, site) for site in ("LV_apex", "RVOT_free", "LV_basal_inferior")]
    way_mm = np.array([ventricles.distances_mm(heart, at)[some] for at in some])
    np.testing.assert_allclose(way_mm, way_mm.T)
    np.testing.assert_array_equal(np.diag(way_mm), 0)
    assert way_mm[0, 1] <= way_mm[0, 2] + way_mm[2, 1] + 1e-9
    time_s = ventricles.activation_s(heart, SPEED, [some[0]], [0.0])
    np.testing.assert_allclose(time_s[some], way_mm[0] / 1000 / SPEED.muscle)


def test_scar_blocks_and_the_wave_goes_round(heart: ventricles.Ventricles) -> None:
    origin, behind = point(heart, "LV_basal_inferolateral"), point(heart, "LV_apical_lateral")
    middle = point(heart, "LV_mid_inferolateral")
    scar = (np.linalg.norm(heart.xyz_mm - heart.xyz_mm[middle], axis=1) < 16) & (heart.wall == LV)
    free_s = ventricles.activation_s(heart, SPEED, [origin], [0.0])
    time_s = ventricles.activation_s(heart, SPEED, [origin], [0.0], scar)
    assert np.isinf(time_s[scar]).all()
    assert np.isfinite(time_s[~scar]).all()
    assert (time_s[~scar] >= free_s[~scar] - 1e-12).all()
    assert time_s[behind] > free_s[behind] + 0.003
    assert np.isinf(ventricles.activation_s(heart, SPEED, [middle], [0.0], scar)).all()


def test_of_several_waves_the_first_counts(heart: ventricles.Ventricles) -> None:
    one, other = point(heart, "RV_mid"), point(heart, "LV_mid_inferolateral")
    alone = [ventricles.activation_s(heart, SPEED, [at], [0.0]) for at in (one, other)]
    both = ventricles.activation_s(heart, SPEED, [one, other], [0.0, 0.01])
    np.testing.assert_array_equal(both, np.minimum(alone[0], alone[1] + 0.01))


def test_a_fast_endocardium_hastens_and_ends_before_the_base(heart: ventricles.Ventricles) -> None:
    origin = point(heart, "LV_apex")
    slow_s = ventricles.activation_s(heart, SPEED, [origin], [0.0])
    fast_s = ventricles.activation_s(heart, Speeds(0.6, 1.2), [origin], [0.0])
    bare_s = ventricles.activation_s(heart, Speeds(0.6, 1.2, bare_mm=1000.0), [origin], [0.0])
    assert (fast_s <= slow_s + 1e-12).all()
    assert fast_s.max() < 0.75 * slow_s.max()
    np.testing.assert_array_equal(bare_s, slow_s)


def test_a_heart_twice_as_large_takes_twice_as_long(heart: ventricles.Ventricles) -> None:
    large = ventricles.scaled(heart, np.full(3, 2.0))
    origin = point(heart, "LV_apex")
    np.testing.assert_allclose(
        ventricles.activation_s(large, SPEED, [origin], [0.0]),
        2 * ventricles.activation_s(heart, SPEED, [origin], [0.0]),
    )
    np.testing.assert_allclose(large.area_mm2, 4 * heart.area_mm2)
    long = ventricles.scaled(heart, np.array([1.0, 1.0, 1.5]))
    left = heart.wall == LV

    def volume(one: ventricles.Ventricles) -> float:
        return float((one.area_mm2[left] * one.xyz_mm[left]).sum())

    assert volume(long) == pytest.approx(1.5 * volume(heart))


# ── The chest ────────────────────────────────────────────────────────────────────────────────────────────


def neumann(electrode: Floats, source: Floats) -> float:
    """Z of torso.lead_field's docstring."""
    radius, away = np.linalg.norm(electrode), np.linalg.norm(electrode - source)
    return float(2 / away - np.log(radius**2 - electrode @ source + radius * away) / radius)


def test_the_lead_field_is_the_gradient_of_neumanns_function() -> None:
    electrodes = torso.electrodes_mm(150.0, np.zeros((9, 2)))
    sources = np.array([[20.0, -10.0, -60.0], [-5.0, 40.0, 15.0]])
    field = torso.lead_field(electrodes, sources, 150.0)
    step = 1e-3
    for e in (0, 4):
        for s, source in enumerate(sources):
            slope = [
                (neumann(electrodes[e], source + d) - neumann(electrodes[e], source - d)) / (2 * step)
                for d in step * np.eye(3)
            ]
            np.testing.assert_allclose(field[e, s], slope, rtol=1e-5)


def test_at_the_surface_a_central_dipole_is_seen_three_times() -> None:
    """The potential at the surface of a sphere is three times that in a medium without end."""
    electrodes = torso.electrodes_mm(150.0, np.zeros((9, 2)))
    field = torso.lead_field(electrodes, np.zeros((1, 3)), 150.0)[:, 0]
    np.testing.assert_allclose(field, 3 * electrodes / 150.0**3, rtol=1e-9)


def test_no_current_leaves_the_chest() -> None:
    """Z is harmonic inside, so its flux through a ball within the chest is nothing; by points spread evenly over it."""
    n = 4000
    level = 1 - 2 * (np.arange(n) + 0.5) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    ball = np.stack([np.sqrt(1 - level**2) * np.cos(turn), np.sqrt(1 - level**2) * np.sin(turn), level], axis=1)
    field = torso.lead_field(torso.electrodes_mm(150.0, np.zeros((9, 2))), 40 * ball + [20, 0, -50], 150.0)
    flux = np.einsum("epk,pk->e", field, ball) / n
    assert np.abs(flux).max() < 1e-3 * np.abs(field).max()


def test_a_heart_at_rest_or_wholly_excited_gives_nothing(heart: ventricles.Ventricles) -> None:
    electrodes = torso.electrodes_mm(150.0, np.zeros((9, 2)))
    xyz_mm = heart.xyz_mm + np.array([15.0, -15.0, -40.0])
    weights = torso.transfer(electrodes, xyz_mm, heart.area_mm2, 150.0, 0.3)
    assert weights.shape == (9, heart.n_points)
    np.testing.assert_allclose(weights.sum(axis=1), 0, atol=1e-12)
    assert not weights[:, heart.layer == MID].any()
    # The wave comes to V3 through the wall: the inside, excited, lifts it, the outside lowers it.
    v3 = torso.ELECTRODES.index("V3")
    nearest = np.argmin(np.linalg.norm(xyz_mm - electrodes[v3], axis=1))
    assert weights[v3, nearest] < 0


def test_electrodes_are_where_they_belong() -> None:
    places = dict(zip(torso.ELECTRODES, torso.electrodes_mm(150.0, np.zeros((9, 2))), strict=True))
    assert all(np.linalg.norm(place) == pytest.approx(150) for place in places.values())
    assert places["RA"][0] < 0 < places["LA"][0]
    assert places["RA"][1] < 0 < places["LL"][1]
    left = [places[f"V{n}"][0] for n in range(1, 7)]
    assert left == sorted(left)
    assert left[0] < 0 < left[1]
    assert all(places[f"V{n}"][2] < 0 for n in range(1, 6))


@pytest.mark.parametrize("off_deg", [1e-9, -1e-9])
def test_no_site_hangs_on_how_a_processor_rounds(off_deg, monkeypatch):
    wanted, exact = ventricles.reference_heart(), ventricles.angle_deg
    monkeypatch.setattr(ventricles, "angle_deg", lambda xyz_mm: exact(xyz_mm) + off_deg)
    found = ventricles.reference_heart.__wrapped__()
    np.testing.assert_array_equal(found.site, wanted.site)
    np.testing.assert_array_equal(found.aha17, wanted.aha17)
