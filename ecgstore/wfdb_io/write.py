"""WFDB out: counts as they stand in a store, in format 16, with the gains that make millivolts of them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgstore.errors import StoreError
from ecgstore.record import Beat
from ecgstore.wfdb_io.files import import_wfdb, why

#: Of NumPy, where a file took less than it was given.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
#: Suffix of annotations of stores that don't say theirs.
UNSAID = "atr"


def write_record(
    folder: Path,
    name: str,
    counts_lt: npt.NDArray[np.int16],
    fs_hz: float,
    leads: Sequence[str],
    gain_per_mv_l: npt.NDArray[np.float64],
    baseline_l: npt.NDArray[np.int64],
) -> None:
    """Write ``name.hea`` and ``name.dat``: mV = (count − baseline) / gain, -32768 where nothing was recorded.

    WFDB knows no negative gain, so a lead of one is written turned. Raises StoreError where wfdb refuses, OSError where
    the disk does.
    """
    is_turned_l = gain_per_mv_l < 0
    signal_tl = counts_lt.T.astype(np.int64)
    is_missing_tl = signal_tl == np.iinfo(np.int16).min
    signal_tl[:, is_turned_l] *= -1
    signal_tl[is_missing_tl] = np.iinfo(np.int16).min
    try:
        import_wfdb().wrsamp(
            name,
            fs=int(fs_hz) if float(fs_hz).is_integer() else float(fs_hz),
            units=["mV"] * len(leads),
            sig_name=list(leads),
            d_signal=signal_tl,
            fmt=["16"] * len(leads),
            adc_gain=np.abs(gain_per_mv_l).tolist(),
            baseline=np.where(is_turned_l, -baseline_l, baseline_l).astype(int).tolist(),
            write_dir=str(folder),
        )
    except OSError as error:
        if error.errno is None and _CUT_SHORT.search(str(error)):
            # NumPy counts what it wrote, and forgets why it was less: a file ends early where the disk does.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / name)) from error
        raise
    except (ValueError, TypeError, IndexError) as error:
        raise StoreError("a record can't be written in WFDB's format", where=folder / name, got=why(error)) from error


def write_annotations(folder: Path, name: str, beats: Sequence[Beat], fs_hz: float) -> int:
    """Write the annotations of a record, a file for each annotator; returns how many WFDB can't hold.

    They stand in the order of time. Raises StoreError where wfdb refuses.
    """
    wfdb = import_wfdb()
    n_lost = 0
    for annotator in sorted({beat.annotator or UNSAID for beat in beats}):
        its = sorted((beat for beat in beats if (beat.annotator or UNSAID) == annotator), key=lambda beat: beat.time_s)
        known = [beat for beat in its if beat.symbol in wfdb.io.annotation.ann_label_table["symbol"].to_list()]
        n_lost += len(its) - len(known)
        if not known:
            continue
        if not (annotator.isascii() and annotator.isalpha()):
            n_lost += len(known)
            continue
        try:
            wfdb.wrann(
                name,
                annotator,
                np.array([round(beat.time_s * fs_hz) for beat in known], np.int64),
                symbol=[beat.symbol for beat in known],
                subtype=np.array([beat.subtype for beat in known], np.int64),
                chan=np.array([beat.channel for beat in known], np.int64),
                num=np.array([beat.num for beat in known], np.int64),
                aux_note=[beat.note for beat in known],
                fs=fs_hz,
                write_dir=str(folder),
            )
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise StoreError(
                "annotations can't be written in WFDB's format", where=folder / name, got=why(error)
            ) from error
    return n_lost
