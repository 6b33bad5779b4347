"""What is done to test records: noise, lost leads, another rate, a wrong gain."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import TypeAdapter

from ecgstore import LEADS_12, ConfigError, SourceError
from ecgtrain.config.curves import Curve
from ecgtrain.evaluation.changes import changes

FS_HZ = 100.0
STORE = SimpleNamespace(fs_hz=FS_HZ, leads=LEADS_12, path="x.ecg")


def places(*, noise_bank=None, **curve):
    config = SimpleNamespace(data=SimpleNamespace(noise_bank=noise_bank, leads=None))
    return changes(TypeAdapter(Curve).validate_python(curve), config, STORE)


def signal(seed=0):
    t = np.arange(1000) / FS_HZ
    rng = np.random.default_rng(seed)
    return (np.sin(2 * np.pi * 3 * t) + 0.01 * rng.standard_normal((12, 1000))).astype(np.float32)


def test_the_first_place_is_without_a_change():
    for kind in ("noise_robustness", "lead_subsets", "rate_and_gain"):
        first, *others = places(kind=kind)
        assert first.change is None
        assert others
        assert all(one.change is not None for one in others)


def test_noise_grows_with_its_level_and_hangs_on_the_record_alone():
    found = places(kind="noise_robustness")
    assert [one.told for one in found] == ["none", *(f"level {level}" for level in range(1, 7))]
    clean = signal()
    added = [one.change("r", clean.copy()) - clean for one in found[1:]]
    assert added[0].std() < added[2].std() < added[5].std()
    assert np.array_equal(found[3].change("r", clean.copy()) - clean, added[2])
    assert not np.array_equal(found[3].change("s", clean.copy()) - clean, added[2])


def test_a_ratio_is_reached():
    _, ten, zero = places(kind="noise_robustness", noise="muscle", snr_db=[10, 0])
    assert (ten.told, ten.x, zero.told) == ("10 dB", 10.0, "0 dB")
    clean = signal()
    for one, db in ((ten, 10), (zero, 0)):
        noise = one.change("r", clean.copy()) - clean
        power = (clean - clean.mean(axis=1, keepdims=True)).var()
        assert 10 * np.log10(power / noise.var()) == pytest.approx(db, abs=0.2)


def test_other_leads_are_not_recorded():
    whole, six, own = places(kind="lead_subsets", leads=[12, 6, ["V1", "V2"]])
    assert [one.told for one in (whole, six, own)] == ["12 leads", "6 leads", "V1 V2"]
    assert np.isnan(six.change("r", signal())).all(axis=1).tolist() == [False] * 6 + [True] * 6
    assert np.isnan(own.change("r", signal())).all(axis=1).tolist() == [lead not in ("V1", "V2") for lead in LEADS_12]


def test_a_lower_rate_takes_what_is_above_half_of_it_and_nothing_else():
    _, half = places(kind="rate_and_gain", rates_hz=[50], gains=[])
    t = np.arange(1000) / FS_HZ
    slow, fast = (np.tile(np.sin(2 * np.pi * f * t), (12, 1)).astype(np.float32) for f in (5, 40))
    assert half.change("r", slow.copy())[:, 100:-100] == pytest.approx(slow[:, 100:-100], abs=0.02)
    assert np.abs(half.change("r", fast.copy())[:, 100:-100]).max() < 0.02
    gappy = slow.copy()
    gappy[3, 200:300] = np.nan
    assert np.array_equal(np.isnan(half.change("r", gappy.copy())), np.isnan(gappy))
    _, third = places(kind="rate_and_gain", rates_hz=[33.3], gains=[])
    assert third.change("r", slow[:, :997].copy()).shape == (12, 997)


@pytest.mark.parametrize(
    "curve",
    [
        {"kind": "rate_and_gain", "rates_hz": [33.0000001, 33.0000002], "gains": [1.0000001, 1.0000002]},
        {"kind": "noise_robustness", "noise": "muscle", "snr_db": [6, -6, 6.0000001]},
        {"kind": "lead_subsets", "leads": [6, ["I", "II"], ["V1", "V2"], ["V1", "V3"]]},
    ],
)
def test_each_place_has_a_name_and_a_setting_of_its_own(curve):
    found = places(**curve)
    assert len({one.told for one in found}) == len(found)
    assert len({json.dumps(one.setting) for one in found}) == len(found)
    again = places(**{name: its[::-1] if isinstance(its, list) else its for name, its in curve.items()})
    assert {json.dumps(one.setting) for one in again} == {json.dumps(one.setting) for one in found}


def test_a_gain_is_a_factor():
    _, twice = places(kind="rate_and_gain", rates_hz=[], gains=[2])
    assert twice.told == "2 × mV"
    assert np.array_equal(twice.change("r", signal()), 2 * signal())


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ({"kind": "noise_robustness", "noise": "nstdb-em", "snr_db": [6]}, "data.noise_bank"),
        ({"kind": "noise_robustness", "noise": "powerline", "snr_db": [6]}, "mains hum"),
        ({"kind": "lead_subsets", "leads": [["V1", "V7"]]}, "V7"),
        ({"kind": "rate_and_gain", "rates_hz": [100]}, "below that of the store"),
        ({"kind": "rate_and_gain", "rates_hz": [1e-9], "gains": []}, "expected 0.1 to 99.9 Hz, got 1e-09 Hz"),
        ({"kind": "rate_and_gain", "rates_hz": [99.99], "gains": []}, "expected 0.1 to 99.9 Hz"),
        ({"kind": "lead_subsets", "leads": [12]}, "nothing changes on the curve"),
    ],
)
def test_what_can_not_be_done_to_the_records_is_one_line(curve, said):
    with pytest.raises(ConfigError, match=said) as caught:
        places(**curve)
    assert "\n" not in str(caught.value)


def test_recorded_noise_comes_from_its_folder(tmp_path: Path):
    with pytest.raises(SourceError, match="no recorded noise"):
        places(kind="noise_robustness", noise="nstdb-em", snr_db=[6], noise_bank=str(tmp_path))
