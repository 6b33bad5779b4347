"""A model as an ONNX file: a runtime without torch says of it what `predict` says."""

from __future__ import annotations

import logging
import sys

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from quickly import quickly
from torch import nn

from ecgstore import COUNTS_PER_MV, ConfigError, MissingExtra, open_store
from ecgstore.inner import occupant, occupants, parse
from ecgtrain import backbones, cli
from ecgtrain.backbones import build_backbone
from ecgtrain.deployment import onnx_file
from ecgtrain.deployment.model import load_model
from ecgtrain.deployment.onnx_file import INPUT, NAME, OUTPUT, MeanOf, OnMillivolts, write_onnx
from ecgtrain.evaluation.classifier import Classifier, HeadSettings, Tuned
from ecgtrain.run import export_run
from ecgtrain.scoring.kinds import Scale
from ecgtrain.views.normalise import Normalisation, Normaliser
from ecgtrain.views.passport import Passport

LEADS = ("I", "II", "V1")
MEAN_MV = dict.fromkeys(LEADS, 0.5)
#: Of each backbone the smallest that still has all of its parts twice.
SMALL = {
    "conv_reconstructor": {"width": 4},
    "cpc_lstm": {"encoder": {"width": 8}, "lstm_width": 6, "lstm_layers": 2},
    "lead_transformer": {"width": 16, "depth": 2, "heads": 2},
    "side_by_side": {
        "parts": [
            {"network": {"name": "cpc_lstm", "encoder": {"width": 8}, "lstm_width": 6, "lstm_layers": 2}},
            {"network": {"name": "vgg1d", "alpha": 0.02}, "first_row": 1, "n_rows": 2},
        ]
    },
    "s4": {"encoder": {"width": 8}, "width": 8, "layers": 2},
    "vgg1d": {"alpha": 0.02},
    "vit1d": {"width": 16, "depth": 2, "heads": 2},
    "xresnet1d": {"stem": [4, 4, 8], "width": 4},
}


def network_of(name, mode="record", head=None, kind="multilabel", n_rows=3, seed=1, **settings):
    """A network with a head that nobody trained, for windows of 200 samples; one of three classes is a constant."""
    settings = parse(occupant(backbones.__name__, name).Settings, {"name": name, **settings})
    head = head or HeadSettings()
    network = Classifier(build_backbone(settings, n_rows, seed=seed), head, 3, seed=seed).eval()
    tuned = Tuned(
        classes=("A", "B", "C"),
        network=network,
        head=head,
        scale=Scale(np.array([10.0, -3.0, 0.0]), np.array([4.0, 1.0, 2.0])),
        is_fitted_c=np.array([True, False, True]),
        share_c=np.array([0.0, 0.25, 0.0]),
        kind=kind,
    )
    of_leads = MEAN_MV if mode == "lead" else {}
    passport = Passport(
        leads=LEADS,
        fs_hz=100.0,
        counts_per_mv=COUNTS_PER_MV,
        window_samples=200,
        normalisation=Normalisation(mode=mode, mean_mv=of_leads, std_mv=of_leads),
        recipe={},
        recipe_sha256="",
        store_fingerprint="",
    )
    return OnMillivolts(tuned.scorer(None), passport, 200).eval()


def ask(path, windows_blt):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: windows_blt})[0]


def windows(n):
    windows_blt = np.random.default_rng(n).standard_normal((n, len(LEADS), 200)).astype(np.float32)
    windows_blt[0, 1] = np.nan
    return windows_blt


def agrees(network, path, sizes=(1, 4)):
    """The file says what the network says, of any number of windows."""
    for n in sizes:
        windows_blt = windows(n)
        with torch.no_grad():
            expected_bc = network(torch.from_numpy(windows_blt)).numpy()
        np.testing.assert_allclose(ask(path, windows_blt), expected_bc, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", quickly(["q", "tuned", "looks", "one", "age"], "q"))
def test_a_runtime_says_of_a_stores_windows_what_predict_says(finished, mini_store, tmp_path, name):
    export_run(finished, tmp_path / "model", name=name, onnx=True)
    done = CliRunner().invoke(
        cli.main, ["predict", str(tmp_path / "model"), str(mini_store), "--out", str(tmp_path / "p.parquet")]
    )
    assert done.exit_code == 0, done.stderr
    table = pq.ParquetFile(tmp_path / "p.parquet").read(use_threads=False)
    said_rc = np.stack([table[column].to_numpy() for column in table.column_names if ":" in column], axis=1)
    store, head = open_store(mini_store), load_model(tmp_path / "model").head
    said_rc = said_rc[:, : len(head.classes)]
    assert np.ptp(said_rc[:, 0]) > 0
    for row in (0, 20):
        signal_mv_lt = store.read(store.column("record_id")[row]).signal_mv_lt.astype(np.float32)
        starts = range(0, signal_mv_lt.shape[1] - head.window_samples + 1, head.stride_samples)
        cut = np.stack([signal_mv_lt[:, start : start + head.window_samples] for start in starts])
        of_file_c = ask(tmp_path / "model" / NAME, cut).mean(axis=0)
        np.testing.assert_allclose(of_file_c, said_rc[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", quickly(sorted(SMALL)))
def test_every_backbone_can_be_written(tmp_path, name):
    assert sorted(SMALL) == sorted(occupants(backbones.__name__))
    network = network_of(name, head=HeadSettings(reads="attention", queries=2, hidden=5), **SMALL[name])
    agrees(network, write_onnx(network, tmp_path))


@pytest.mark.parametrize(
    ("mode", "kind"),
    quickly(
        [("none", "exclusive"), ("record", "multilabel"), ("record_lead", "exclusive"), ("lead", "regression")],
    ),
)
def test_links_and_normalisations_are_in_the_file(tmp_path, mode, kind):
    network = network_of("cpc_lstm", mode, kind=kind, **SMALL["cpc_lstm"])
    agrees(network, write_onnx(network, tmp_path))


@pytest.mark.slow
def test_each_of_several_networks_has_its_own_leads_and_normalisation_in_the_file(tmp_path):
    parts = [
        {"network": {"name": "vgg1d", "alpha": 0.02}, "first_row": row, "n_rows": n} for row, n in ((0, 3), (3, 2))
    ]
    network = network_of("side_by_side", parts=parts, n_rows=5)
    normalised = [
        {"leads": LEADS, "normalisation": {"mode": "lead", "mean_mv": MEAN_MV, "std_mv": MEAN_MV}},
        {"leads": LEADS[::-2], "normalisation": {"mode": "record"}},
    ]
    network.normaliser = Normaliser(Normalisation(mode="each", parts=normalised), LEADS)
    agrees(network, write_onnx(network, tmp_path))


@pytest.mark.slow
def test_several_seeds_are_one_file_that_says_their_mean(tmp_path):
    each = [network_of("vgg1d", seed=seed, **SMALL["vgg1d"]) for seed in (1, 2)]
    network = MeanOf(each).eval()
    agrees(network, path := write_onnx(network, tmp_path))
    with torch.no_grad():
        mean_bc = np.mean([one(torch.from_numpy(windows(3))).numpy() for one in each], axis=0)
    np.testing.assert_allclose(ask(path, windows(3)), mean_bc, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "n_lstm"), quickly([("cpc_lstm", 2), ("s4", 0)]))
def test_recurrent_and_state_space_layers_are_written_in_onnxs_own_words(tmp_path, name, n_lstm):
    """A window of 200 samples is one operator per layer, and no complex number is left."""
    import onnx

    network = network_of(name, head=HeadSettings(reads="attention", queries=2, hidden=5), **SMALL[name])
    path = write_onnx(network, tmp_path)
    agrees(network, path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert len(nodes) < 300
    assert nodes.count("LSTM") == n_lstm


@pytest.mark.slow
def test_both_ways_of_a_state_space_are_written(tmp_path):
    network = network_of("s4", encoder={"width": 4}, width=4, layers=1, bidirectional=True)
    agrees(network, write_onnx(network, tmp_path))


def test_nothing_is_said_and_the_network_is_left_as_it_was(tmp_path, capfd, recwarn):
    network = network_of("cpc_lstm", **SMALL["cpc_lstm"])
    before = [repr(network), logging.getLogger("torch.onnx").level]
    write_onnx(network, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [*recwarn] == []
    assert [repr(network), logging.getLogger("torch.onnx").level] == before


class _Strange(nn.Module):
    """Something that ONNX has no word for."""

    def forward(self, x_blt):
        return torch.linalg.eigvals(x_blt @ x_blt.transpose(1, 2)).real


@pytest.mark.slow
def test_what_has_no_word_in_onnx_is_refused_in_one_line(tmp_path, capfd):
    network = network_of("cpc_lstm", **SMALL["cpc_lstm"])
    network.scorer = _Strange()
    with pytest.raises(ConfigError, match=r"can't be written as ONNX.*eig") as caught:
        write_onnx(network, tmp_path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", "")


def test_a_file_that_says_something_else_is_refused(tmp_path, monkeypatch):
    """As a runtime with a fault would make of it."""
    network = network_of("cpc_lstm", **SMALL["cpc_lstm"])
    other = onnx_file.exportable(network_of("cpc_lstm", kind="exclusive", **SMALL["cpc_lstm"]))
    monkeypatch.setattr(onnx_file, "exportable", lambda _: other)
    with pytest.raises(ConfigError, match="says something else"):
        write_onnx(network, tmp_path)


def test_an_unusual_recurrent_layer_is_refused(tmp_path):
    network = network_of("cpc_lstm", **SMALL["cpc_lstm"])
    network.scorer.network.backbone.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
    with pytest.raises(ConfigError, match="of this kind"):
        write_onnx(network, tmp_path)


def test_neighbours_are_no_network(finished, tmp_path):
    done = CliRunner().invoke(cli.main, ["export", str(finished), str(tmp_path / "out"), "--name", "near", "--onnx"])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "it is no network" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", onnx_file.PACKAGES)
def test_without_its_packages_it_says_what_to_install(finished, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # as Python has it of a package that can't be found
    with pytest.raises(MissingExtra, match=rf"{missing} is not installed.*pip install \"ecgstore\[onnx\]\""):
        export_run(finished, tmp_path / "out", name="q", onnx=True)
    assert list(tmp_path.iterdir()) == []
