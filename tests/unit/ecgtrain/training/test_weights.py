"""Weights from anywhere: the header is looked at before anything is allocated."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from ecgtrain.errors import CheckpointError
from ecgtrain.training.weights import read_arrays, read_weights

NETWORK = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(4)}


def written(header: object, content: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def test_what_fits_is_read(tmp_path):
    save_file(NETWORK, tmp_path / "model.safetensors")
    found = read_weights(tmp_path / "model.safetensors", NETWORK)
    assert all(torch.equal(found[name], value) for name, value in NETWORK.items())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": torch.zeros(3, 2), "n": NETWORK["n"]}, r"a differs.*expected F32 \[2, 3\], got F32 \[3, 2\]"),
        ({"a": NETWORK["a"].double(), "n": NETWORK["n"]}, "expected F32.*got F64"),
        ({"a": NETWORK["a"]}, r"n differs.*got none"),
        ({**NETWORK, "more": torch.zeros(1)}, "more differs.*expected none"),
    ],
)
def test_what_fits_another_network_is_refused(tmp_path, other, said):
    save_file(other, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        read_weights(tmp_path / "model.safetensors", NETWORK)


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (2**63).to_bytes(8, "little") + b"{}",
        written(b"{" * 50_000),
        written([1]),
        written({"a": 1}),
        written({"a": {**ENTRY, "dtype": "PICKLE"}}),
        written({"a": {**ENTRY, "shape": [-2, -3]}}),
        written({"a": {**ENTRY, "shape": [2, 3.0]}}),
        written({"a": {**ENTRY, "shape": [10**9, 10**9]}}),
        written({"a": {**ENTRY, "data_offsets": [0, 10**12]}}),
        written({"a": {**ENTRY, "data_offsets": [4, 28]}}, bytes(28)),
        written({"a": ENTRY, "b": ENTRY}),
        written({"a": ENTRY}, bytes(25)),
        written({"a": ENTRY}, bytes(20)),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_one_line(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    for read in (lambda path: read_weights(path, NETWORK), read_arrays):
        with pytest.raises(CheckpointError, match="the weights can't be read") as refused:
            read(tmp_path / "model.safetensors")
        assert "\n" not in str(refused.value)


def test_a_pipe_holds_no_weights(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a plain file"):
        read_weights(tmp_path / "model.safetensors", NETWORK)
