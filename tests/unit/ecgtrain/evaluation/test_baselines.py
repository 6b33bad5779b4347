"""What needs no network: QRS integrals and sex."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.protocols import Context, qrs_integrals, sex_only
from ecgtrain.evaluation.splits import GivenFeatures, Split, UnreadWindows
from ecgtrain.representation.extract import Signals, WindowFeatures

FS_HZ = 250
N_SAMPLES = 150
TRAINED = SimpleNamespace(passport=SimpleNamespace(fs_hz=float(FS_HZ), leads=("I", "II", "V1")))


class Given(UnreadWindows):
    """Windows that are in memory, in mV, and a table of sexes."""

    def __init__(self, x_rlt: np.ndarray, row_r: np.ndarray, sex: np.ndarray | None = None) -> None:
        object.__setattr__(self, "parts", (x_rlt, row_r, sex))

    def millivolts(self, batch_size):
        x_rlt, row_r, _ = self.parts
        for i in range(0, len(row_r), 7):
            yield Signals(torch.from_numpy(x_rlt[i : i + 7]), row_r[i : i + 7])

    def column(self, name):
        assert name == "sex"
        return self.parts[2]


def beats(direction_r3: np.ndarray, seed: int) -> np.ndarray:
    """A QRS complex per record whose size on each lead is given, some samples beside the middle, with noise."""
    draw = np.random.default_rng(seed)
    t = np.arange(N_SAMPLES) / FS_HZ
    at = 0.3 + draw.uniform(-0.02, 0.02, len(direction_r3))
    wave_rt = np.exp(-(((t - at[:, None]) / 0.025) ** 2))
    x_rlt = direction_r3[:, :, None] * wave_rt[:, None] + draw.normal(0, 0.01, (len(at), 3, N_SAMPLES))
    return x_rlt.astype(np.float32)


def split(first: int, n: int, kind: str) -> Split:
    draw = np.random.default_rng(first)
    direction = draw.normal(0, 1, (n, 3))
    row_r = np.arange(first, first + n)
    y_rc = direction * 20 if kind == "regression" else np.eye(3, dtype=bool)[direction.argmax(axis=1)]
    return Split(row_r, y_rc, tuple(f"p{row}" for row in row_r), Given(beats(direction, first), row_r), kind)


def test_the_area_is_that_of_the_complex_in_mv_ms() -> None:
    x_lt = beats(np.array([[1.0, -2.0, 0.5]]), 0)[0]
    area = 0.025 * np.sqrt(np.pi) * 1000
    np.testing.assert_allclose(qrs_integrals.qrs_integrals(x_lt, FS_HZ), [area, -2 * area, area / 2], rtol=0.1, atol=1)
    np.testing.assert_array_equal(qrs_integrals.qrs_integrals(np.zeros((3, 150), np.float32), FS_HZ), 0)


@pytest.mark.parametrize("kind", ["exclusive", "regression"])
def test_where_the_areas_tell_the_answer_it_is_found(kind: str) -> None:
    train, validation, test = split(0, 120, kind), split(500, 40, kind), split(900, 40, kind)
    context = Context(("a", "b", "c"), TRAINED, kind=kind)
    fitted = protocols.fit(train, validation, qrs_integrals.Settings(penalties=(0.1, 0.001)), context, test=test)
    score = protocols.scores(fitted, test)
    if kind == "regression":
        assert np.linalg.norm(score - test.y_rc, axis=1).mean() < 4
    else:
        assert (score.argmax(axis=1) == test.y_rc.argmax(axis=1)).mean() > 0.85
    loaded = qrs_integrals.load(fitted.arrays(), fitted.about(), context)
    np.testing.assert_allclose(protocols.scores(loaded, test), score, atol=1e-6)
    for qrs_s in (None, "x", -1, 5):
        with pytest.raises(CheckpointError, match="qrs_s"):
            qrs_integrals.load(fitted.arrays(), {"qrs_s": qrs_s}, context)


def of_sexes(first: int, sexes: list[str], y_rc: np.ndarray, kind: str) -> Split:
    row_r = np.arange(first, first + len(sexes))
    sex = np.array([""] * first + sexes, dtype=object)
    windows = Given(np.zeros((len(sexes), 3, 10), np.float32), row_r, sex)
    return Split(row_r, y_rc, tuple(f"p{row}" for row in row_r), windows, kind)


def test_sex_tells_as_much_as_it_goes_with_the_class() -> None:
    right = np.array([[True, False]] * 3 + [[False, True]] * 3)
    train = of_sexes(0, ["female", "female", "male", "male", "male", "female"], right, "exclusive")
    test = of_sexes(10, ["female", "male", ""], right[[0, 3, 0]], "exclusive")
    context = Context(("RVOT", "LVOT"), TRAINED, kind="exclusive")
    fitted = protocols.fit(train, None, sex_only.Settings(), context, test=test)
    score = protocols.scores(fitted, test)
    # Two of three, drawn towards a half by one record's weight.
    np.testing.assert_allclose(score, [[2.5 / 4, 1.5 / 4], [1.5 / 4, 2.5 / 4], [0.5, 0.5]])
    np.testing.assert_allclose(score.sum(axis=1), 1)
    loaded = sex_only.load(fitted.arrays(), {}, context)
    np.testing.assert_array_equal(protocols.scores(loaded, test), score)


def test_numbers_are_told_by_the_mean_of_the_sex_and_gaps_are_said() -> None:
    train = of_sexes(0, ["female", "male", "male", ""], np.array([[10.0], [30.0], [30.0], [30.0]]), "regression")
    context = Context(("x",), TRAINED, kind="regression")
    fitted = protocols.fit(train, None, sex_only.Settings(), context, test=None)
    score = protocols.scores(fitted, of_sexes(10, ["female", "male", "female"], np.zeros((3, 1)), "regression"))
    assert score[0, 0] < 20 < score[1, 0]
    assert fitted.caveats == ("1 of 4 training records state no sex",)


def test_what_is_not_there_is_said() -> None:
    features = Split(
        np.arange(2), np.eye(2, dtype=bool), ("a", "b"), GivenFeatures(WindowFeatures(np.zeros((2, 3)), np.arange(2)))
    )
    with pytest.raises(ProtocolError, match="table of records"):
        features.column("sex")
    with pytest.raises(ProtocolError, match="signals"):
        next(features.millivolts())
