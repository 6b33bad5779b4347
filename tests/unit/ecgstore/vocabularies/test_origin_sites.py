"""Where ventricular beats begin: the tables agree with each other and with the heart that they are of."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore.simulate import ventricles
from ecgstore.vocabularies.origin_sites import aha_segments, origin_sites


def test_there_are_seventeen_segments_with_the_angles_of_the_heart_association() -> None:
    segments = aha_segments()
    assert [one.segment for one in segments] == list(range(1, 18))
    levels = [one.level for one in segments]
    assert levels == ["basal"] * 6 + ["mid"] * 6 + ["apical"] * 4 + ["apex"]
    for one in segments[:16]:
        assert one.angle_deg is not None
        middle = {"basal": 0.2, "mid": 0.5, "apical": 0.8}[one.level]
        assert ventricles.aha_segment(one.angle_deg, middle) == one.segment
    assert segments[16].angle_deg is None
    # Cerqueira et al.: anterior, then against the clock as seen from the apex, septum before the inferior wall.
    assert [one.title for one in segments[:6]] == [
        *("basal anterior", "basal anteroseptal", "basal inferoseptal"),
        *("basal inferior", "basal inferolateral", "basal anterolateral"),
    ]


@pytest.mark.parametrize("segment", range(1, 18))
def test_segments_touch_next_in_their_ring_and_in_the_rings_beside(segment: int) -> None:
    near = set(aha_segments()[segment - 1].neighbours)
    ring = [range(1, 7), range(7, 13), range(13, 17), range(17, 18)]
    own = next(one for one in ring if segment in one)
    place = own.index(segment)
    if len(own) > 1:
        assert {own[place - 1], own[(place + 1) % len(own)]} == near & set(own)
    expected = {
        **dict.fromkeys(range(1, 7), 1),
        **{7: 2, 10: 2, 8: 3, 9: 3, 11: 3, 12: 3},
        **{13: 4, 15: 4, 14: 3, 16: 3, 17: 4},
    }
    assert len(near - set(own)) == expected[segment]


def test_neighbours_are_mutual_and_nobody_is_his_own() -> None:
    for table in (
        {one.segment: one.neighbours for one in aha_segments()},
        {one.site: one.neighbours for one in origin_sites()},
    ):
        for name, near in table.items():
            assert name not in near
            assert len(set(near)) == len(near) > 0
            assert all(name in table[other] for other in near), name  # type: ignore[index]


def test_sites_of_the_table_are_those_of_the_reference_heart() -> None:
    heart = ventricles.reference_heart()
    sites = {one.site: one for one in origin_sites()}
    assert set(sites) == set(heart.site.tolist())
    assert {one.region for one in sites.values()} == {"RVOT", "LVOT", "RV", "LV"}
    for name, one in sites.items():
        its = heart.site == name
        np.testing.assert_allclose(heart.xyz_mm[its].mean(axis=0), one.centroid_mm, atol=0.051)
        assert set(heart.aha17[its].tolist()) - {0} == set(one.aha17)
        assert {"LV" if wall == ventricles.LV else "RV" for wall in heart.wall[its]} == {one.ventricle}
        assert one.site.startswith(one.region)
    for segment in aha_segments():
        centre_mm = heart.xyz_mm[heart.aha17 == segment.segment].mean(axis=0)
        np.testing.assert_allclose(centre_mm, segment.centroid_mm, atol=0.051)


def test_sites_that_share_a_border_are_neighbours() -> None:
    """Ten pairs of near points or more are a border, fewer may be a corner; so two sites without any are apart."""
    heart = ventricles.reference_heart()
    near = heart.lengths_mm < 7
    pairs, counts = np.unique(
        np.stack([heart.site[heart.rows[near]], heart.site[heart.neighbours[near]]]), axis=1, return_counts=True
    )
    touching = {(str(a), str(b)): n for (a, b), n in zip(pairs.T, counts, strict=True) if a != b}
    for one in origin_sites():
        assert all((one.site, other) in touching for other in one.neighbours), one.site
    table = {one.site: one.neighbours for one in origin_sites()}
    missing = [pair for pair, n in touching.items() if n >= 25 and pair[1] not in table[pair[0]]]
    assert missing == []
