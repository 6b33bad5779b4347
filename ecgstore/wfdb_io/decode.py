"""Samples out of the formats that wfdb decodes, by a header of our own making.

wfdb reads a header before it reads samples, and stumbles over dates, names and fields that don't matter here. So it
gets one that says how the samples are packed and nothing else, beside links to the signal files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.wfdb_io.files import beside, import_wfdb, located, said_file
from ecgstore.wfdb_io.header import NOT_STATED, Header

#: "No sample here", by format; format 8, which stores differences, has no word for it.
INVALID = {
    **dict.fromkeys(("80", "508"), -(2**7)),
    **dict.fromkeys(("310", "311"), -(2**9)),
    "212": -(2**11),
    **dict.fromkeys(("16", "61", "160", "516"), -(2**15)),
    **dict.fromkeys(("24", "524"), -(2**23)),
    "32": -(2**31),
}


def decode_by_wfdb(base: str, header: Header, start: int, stop: int) -> list[npt.NDArray[Any]]:
    """Frames ``start`` to ``stop`` - 1 of a record of one segment as they stand in its files: counts, per signal.

    Raises whatever wfdb raises where the files can't be decoded.
    """
    wfdb = import_wfdb()
    # wfdb stumbles over the big-endian counts of format 61, so that these are taken from its physical values, which
    # are the counts where the gain is 1.
    physical = "61" in header.layout.formats
    with tempfile.TemporaryDirectory(prefix="ecgstore-") as folder:
        for number, name in enumerate(header.files):
            path = located(beside(base, name), said_file(number), "")
            _link(os.path.abspath(path), f"{folder}/f{number}.dat")  # noqa: PTH100 a Path follows links
        Path(folder, "r.hea").write_text(_bare_header(header), encoding="ascii")
        # Skew is ignored here because checksums cover the samples as stored, before any realignment.
        record = wfdb.rdrecord(
            f"{folder}/r",
            sampfrom=start,
            sampto=stop,
            physical=physical,
            smooth_frames=False,
            ignore_skew=True,
            return_res=64 if physical else 32,
        )
    if not physical:
        return [np.asarray(counts_t) for counts_t in record.e_d_signal]
    return [
        np.where(np.isnan(value_t), INVALID.get(fmt, 0), np.rint(value_t)).astype(np.int64)
        for value_t, fmt in zip(record.e_p_signal, record.fmt, strict=True)
    ]


def _bare_header(header: Header) -> str:
    layout = header.layout
    initials = np.frombuffer(header.stated, dtype=np.int32)[: len(layout.names)].tolist()
    lines = [f"r {len(layout.names)} 250 {header.n_samples // header.samples_per_frame}"]
    for row, initial in enumerate(initials):
        form = f"{layout.formats[row]}x{layout.samples_per_frame[row]}+{layout.byte_offsets[row]}"
        first = 0 if initial == NOT_STATED else initial
        lines.append(f"f{layout.file_numbers[row]}.dat {form} 1(0)/mV 16 0 {first} 0 0 s{row}")
    return "\n".join(lines) + "\n"


def _link(source: str, target: str) -> None:
    try:
        os.symlink(source, target)  # noqa: PTH211 never a Path here
    except OSError:
        # Where links take a right that the user lacks.
        shutil.copyfile(source, target)
