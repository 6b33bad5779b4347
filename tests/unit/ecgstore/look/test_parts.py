"""Of a long record only the seconds are read that somebody looks at: here all others are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ecgstore import ConfigError, IngestSettings, IntegrityError, ingest_folder, open_store
from ecgstore.look import overlap, parts, plot, shifted
from ecgstore.storage import layout
from ecgstore.storage.store import Store

LONG_S, PIECE_AT_S = 120, 72.0


@pytest.fixture
def store(tmp_path, write_record, monkeypatch) -> Store:
    """A record of 120 s in shards of 10 s, and the piece of it that begins at 72 s."""
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", 500)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (2, 1))
    whole = np.random.default_rng(0).integers(-999, 999, (LONG_S * 100, 12)).astype("<i2")
    write_record(tmp_path / "src", "long", whole, fs="100")
    write_record(tmp_path / "src", "piece", whole[7200:8000], fs="100")
    write_record(tmp_path / "src", "twin", whole, fs="100")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(fs_hz=100, filters=()))
    return open_store(tmp_path / "out.ecg")


def damage(store: Store, record_id: str, *, but: tuple[float, float]) -> None:
    """Make every shard of a record unreadable but those that hold the seconds ``but``."""
    row = store.column("record_id").tolist().index(record_id)
    start, n = store.column("start")[row], store.column("n_samples")[row]
    kept = {int(start + 100 * at_s) // store.shard_samples for at_s in np.arange(*but, 0.5)}
    for shard in range(start // store.shard_samples, (start + n - 1) // store.shard_samples + 1):
        if shard not in kept:
            path = Path(store.path) / layout.shard_object(shard)
            path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IntegrityError):
        store.read(record_id)


def drawn_mm(figure: Figure) -> np.ndarray:
    lines = [line for line in figure.axes[0].lines if str(line.get_gid()).startswith("trace")]
    return np.stack([np.stack(line.get_data()) for line in lines])


@pytest.mark.parametrize("start_s", [0.0, 70.0, 113.7])
def test_a_page_reads_what_it_shows(store, start_s):
    expected = plot.plot_record(store.read("long"), start_s=start_s)
    damage(store, "long", but=(start_s, min(start_s + 10.6, LONG_S)))
    record, whole_s = plot.read_shown(store, "long", start_s)
    drawn = plot.plot_record(record, start_s=start_s, whole_s=whole_s)
    np.testing.assert_allclose(drawn_mm(drawn), drawn_mm(expected))
    foot = [text.get_text() for text in drawn.axes[0].texts if "shown" in text.get_text()]
    assert foot[0].endswith(f"of {LONG_S} s")


def test_a_page_begins_within_its_record(store):
    for start_s in (-1.0, 120.0, float("nan")):
        with pytest.raises(ConfigError, match="outside the record; expected a start from 0 to 120 s"):
            plot.read_shown(store, "long", start_s)
    with pytest.raises(ConfigError, match="did you mean long"):
        plot.read_shown(store, "longg")


def test_a_piece_is_laid_over_what_it_can_be_a_piece_of(store):
    damage(store, "long", but=(PIECE_AT_S - 1, PIECE_AT_S + 9))
    rows = [store.column("record_id").tolist().index(name) for name in ("long", "piece")]
    for (a, b), sign in ((rows, 1), (rows[::-1], -1)):
        candidate = shifted.Candidate(a, b, sign * round(PIECE_AT_S / 0.01) + 2)
        ((row_a, row_b, alike, lag_s),) = shifted.alike([candidate], parts.Reader(store), parts.Reader(store), 0.98)
        assert (row_a, row_b) == (a, b)
        assert alike == pytest.approx(1, abs=1e-3)
        assert lag_s == pytest.approx(sign * PIECE_AT_S, abs=0.015)


def test_near_copies_are_told_by_their_first_seconds(store):
    bits = overlap.signatures(store)
    damage(store, "long", but=(0, 11))
    rows = [store.column("record_id").tolist().index(name) for name in ("long", "twin")]
    assert bits[rows[0]] == bits[rows[1]]
    assert overlap.near_duplicates(store) == [(*rows, 1.0)]


def test_long_copies_are_compared_to_their_last_sample(store):
    rows = tuple(store.column("record_id").tolist().index(name) for name in ("long", "twin"))
    assert overlap.exact_duplicates(store) == [rows]
    its = parts.Reader(store)
    last = its.read(rows[0], 119.99, 500.0)
    assert (last.record.n_samples, last.start_s, last.whole_s) == (1, 119.99, 120.0)

    class Changed(parts.Reader):
        def read(self, row: int, start_s: float, stop_s: float) -> parts.Part:
            part = super().read(row, start_s, stop_s)
            if round(part.start_s * 100) + part.record.n_samples == LONG_S * 100:
                part.record.signal_mv_lt[3, -1] += 1
            return part

    assert not overlap._is_same(Changed(store), rows[0], its, rows[1])
