from __future__ import annotations

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import ecgtrain
from ecgstore import ConfigError, IngestSettings, SourceError, ingest_folder, open_store
from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.backbones import build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.data.feed import open_feed
from ecgtrain.data.selection import select_parts
from ecgtrain.data.settings import Data
from ecgtrain.data.statistics import statistics_of
from ecgtrain.errors import CheckpointError, LeakageError, PassportError, ProtocolError
from ecgtrain.methods import cpc
from ecgtrain.representation.calibrate import calibrate, calibrate_batchnorm
from ecgtrain.representation.export import load_backbone
from ecgtrain.representation.extract import window_features
from ecgtrain.representation.nulls import random_backbone
from ecgtrain.run import learn, run
from ecgtrain.training import checkpoint
from ecgtrain.training.prepare import selected
from ecgtrain.views.noise import RecordedNoise
from ecgtrain.views.normalise import normalise, to_mv


def recipe(store, **pretraining):
    return parse(
        RunConfig,
        {
            "name": "tiny",
            "seed": 1,
            "data": {"store": str(store)},
            "pretrain": {
                "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
                "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
                "folds": [1, 2, 3, 4, 5, 6],
                "validation_folds": [7],
                "window_samples": 100,
                "batch_size": 8,
                "steps": 6,
                "checkpoint_every_steps": 3,
                "validate_every_steps": 3,
                **pretraining,
            },
        },
    )


@pytest.fixture(scope="module")
def run_dir(mini_store, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    learn(recipe(mini_store), run_dir)
    return run_dir


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_directory_explains_itself(run_dir, mini_store):
    store = open_store(mini_store)
    assert config.load(run_dir / "config.yaml") == recipe(mini_store)
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["feed"].startswith("feed: resident")
    passport = json.loads((run_dir / "preprocessing.json").read_text())
    statistics = store.statistics(folds=range(1, 7))
    assert passport["leads"] == list(store.leads)
    assert (passport["fs_hz"], passport["counts_per_mv"]) == (100.0, 1000)
    assert (passport["recipe"], passport["recipe_sha256"]) == (store.recipe, store.recipe_sha256)
    assert passport["store_fingerprint"] == store.fingerprint
    assert passport["normalisation"]["mean_mv"]["V2"] == pytest.approx(statistics.mean_mv_l[7])
    assert passport["normalisation"]["std_mv"]["V2"] == pytest.approx(statistics.std_mv_l[7])
    assert (run_dir / "metrics.jsonl").stat().st_size > 0
    assert [path.name for path in sorted((run_dir / "checkpoints").iterdir())] == ["step-00000003", "step-00000006"]


def test_who_was_seen_is_written_down(run_dir, mini_store):
    store = open_store(mini_store)
    seen = pq.ParquetFile(run_dir / "seen.parquet").read(use_threads=False)
    assert seen.schema.metadata[b"store_fingerprint"].decode() == store.fingerprint
    by_role = {
        role: {row["record_id"] for row in seen.to_pylist() if row["role"] == role} for role in ("train", "validation")
    }
    ids = store.column("record_id")
    assert by_role["train"] == set(ids[store.select(folds=range(1, 7))])
    assert by_role["validation"] == set(ids[store.select(folds=[7])])
    assert set(seen["patient_key"].to_pylist()) <= set(store.column("patient_key"))


def test_what_is_loaded_is_what_was_trained(run_dir, mini_store):
    loaded = load_backbone(run_dir)
    weights = checkpoint.load_weights(checkpoint.last(run_dir / "checkpoints"))
    parameters = loaded.backbone.named_parameters()
    assert all(torch.equal(weights[f"backbone.{name}"], value) for name, value in parameters)
    assert not loaded.backbone.training
    assert loaded.passport == checkpoint.load_passport(run_dir / "export")
    assert same(load_backbone(run_dir / "export").backbone, loaded.backbone)
    assert not same(loaded.backbone, random_backbone(recipe(mini_store), seed=1).backbone)
    assert ecgtrain.load_backbone is load_backbone


def test_an_unfinished_or_spoilt_run_has_no_backbone(run_dir, tmp_path):
    with pytest.raises(CheckpointError, match="no whole exported backbone.*finish the run first"):
        load_backbone(tmp_path)
    copy = tmp_path / "export"
    copy.mkdir()
    for path in (run_dir / "export").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    load_backbone(tmp_path)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes() + b"!")
    with pytest.raises(CheckpointError, match="model.safetensors is not what was written"):
        load_backbone(tmp_path)


def test_a_directory_with_a_run_is_resumed_or_refused(run_dir, mini_store):
    with pytest.raises(ConfigError, match="there is already a run.*resume it"):
        learn(recipe(mini_store), run_dir)
    before = load_backbone(run_dir).backbone
    assert same(learn(recipe(mini_store), run_dir, resume=True).backbone, before)
    with pytest.raises(CheckpointError, match=r"pretrain.batch_size differs"):
        learn(recipe(mini_store, batch_size=7), run_dir, resume=True)


@pytest.fixture(scope="module")
def another_store(mini, tmp_path_factory):
    """The same records, not filtered."""
    out = tmp_path_factory.mktemp("another") / "raw.ecg"
    ingest_folder(mini, out, IngestSettings(fs_hz=100, filters=()))
    return out


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("differs", "changes"),
    [
        ("seed", {"seed": 2}),
        ("leads", {"data": {"leads": ("V5", "II")}}),
        ("data.exclude_folds", {"data": {"exclude_folds": (2,)}}),
        ("store_fingerprint", {"data": "another"}),
        ("pretrain.folds", {"pretrain": {"folds": [1, 2, 3, 4, 5]}}),
        ("pretrain.method.steps_ahead", {"pretrain": {"method": {"name": "cpc", "steps_ahead": 4, "n_negatives": 8}}}),
        ("pretrain.optimiser.lr", {"pretrain": {"optimiser": {"lr": 0.5}}}),
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(run_dir, mini_store, another_store, differs, changes):
    before = content_of(run_dir)
    assert {"config.yaml", "seen.parquet", "environment.json", "metrics.jsonl"} <= {str(path) for path in before}
    made = recipe(another_store if changes.get("data") == "another" else mini_store, **changes.get("pretrain", {}))
    if isinstance(changes.get("data"), dict):
        made = made.model_copy(update={"data": made.data.model_copy(update=changes["data"])})
    made = made.model_copy(update={"seed": changes.get("seed", made.seed)})
    with pytest.raises(CheckpointError, match=rf"a run with other settings: {re.escape(differs)} differs"):
        run(made, run_dir, resume=True)
    assert content_of(run_dir) == before


def test_a_question_that_could_not_count_is_refused_before_anything_is_written(
    run_dir, mini_store, another_store, tmp_path
):
    before = content_of(run_dir)

    def asking(**changes):
        question = {"name": "q", "task": "ptbxl/superdiagnostic", "train_folds": [2], "test_folds": [8]}
        question |= {"window_samples": 250, "stride_samples": 125, "settings": {"penalties": [1.0]}}
        return parse(RunConfig, {**recipe(mini_store).model_dump(), "downstream": [{**question, **changes}]})

    for made, error, said in (
        (asking(test_folds=[1]), LeakageError, "patients are on both sides of pretraining and test"),
        (asking(store=str(another_store)), PassportError, "filters differs"),
        (
            asking(task={"kind": "statements", "system": "scp_ecg", "codes": ["ASMI"]}, test_folds=[6]),
            ProtocolError,
            "the class ASMI has no positive record in the test folds",
        ),
    ):
        with pytest.raises(error, match=said):
            run(made, run_dir, resume=True)
        with pytest.raises(error, match=said):
            run(made, tmp_path / "new")
    assert content_of(run_dir) == before
    assert not (tmp_path / "new").exists()


def test_other_cadences_and_another_place_of_the_store_may_be_resumed(run_dir, mini_store, tmp_path):
    moved = tmp_path / "moved.ecg"
    moved.symlink_to(mini_store)
    before = load_backbone(run_dir).backbone
    others = recipe(moved, log_every_steps=1, trackers=[])
    assert same(learn(others, run_dir, resume=True).backbone, before)


@pytest.mark.learning
def test_the_best_weights_can_be_exported(mini_store, tmp_path):
    learn(recipe(mini_store, keep="best"), tmp_path)
    about = checkpoint.load_config(tmp_path / "export")
    assert about["checkpoint"] == checkpoint.last(tmp_path / "checkpoints/best").name


def test_leads_are_a_choice(mini_store, tmp_path):
    chosen = recipe(mini_store).model_copy(update={"data": Data(store=str(mini_store), leads=("V5", "II"))})
    backbone, passport = learn(chosen, tmp_path)
    assert (backbone.n_leads, passport.leads) == (2, ("V5", "II"))
    assert list(passport.normalisation.mean_mv) == ["V5", "II"]
    store = open_store(mini_store)
    made = window_features(backbone, store, np.array([3]), passport=passport, window_samples=1000, stride_samples=1000)
    signal = torch.from_numpy(store.read(store.column("record_id")[3]).signal_mv_lt[[10, 1]])
    mean, std = passport.normalisation.vectors(["V5", "II"])
    with torch.no_grad():
        expected = backbone(((signal - mean[:, None]) / std[:, None])[None]).pooled_bd
    assert np.allclose(made.features_nd, expected, atol=1e-4)


def test_the_null_starts_where_pretraining_started_but_knows_the_signals(mini_store):
    made = recipe(mini_store)
    backbone, _ = random_backbone(made, seed=1)
    fresh = build_backbone(made.pretrain.backbone, 12, seed=1)
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, backbone.state_dict()[name]), name
    assert not torch.equal(backbone.encoder[0].norm.running_var, fresh.encoder[0].norm.running_var)
    assert not same(random_backbone(made, seed=2).backbone, backbone)
    assert same(random_backbone(made, seed=1, calibrated=False).backbone, fresh)


def test_calibrated_statistics_are_those_of_the_data(mini_store, run_dir):
    store = open_store(mini_store)
    passport = load_backbone(run_dir).passport
    backbone = build_backbone(recipe(mini_store).pretrain.backbone, 12, seed=1)
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    feed = open_feed(store, np.arange(32), window_samples=1000)
    calibrate_batchnorm(backbone, feed, passport, batch_size=32, seed=0, n_batches=3)
    plan = next(iter(_whole(feed)))
    x_blt = normalise(to_mv(feed.batch(plan).counts_blt), "lead", passport.normalisation.vectors(passport.leads))
    first = backbone.encoder[0].conv(x_blt)
    assert torch.allclose(backbone.encoder[0].norm.running_mean, first.mean((0, 2)), atol=1e-5)
    assert torch.allclose(backbone.encoder[0].norm.running_var, first.var((0, 2)), rtol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in backbone.named_parameters())
    assert backbone.encoder[0].norm.momentum == 0.1


def _whole(feed):
    from ecgtrain.data.plan import evaluation_plans

    return evaluation_plans(feed.records, window_samples=1000, stride_samples=1000, batch_size=64)


def test_features_come_by_window_seven_to_a_record(run_dir, mini_store):
    store = open_store(mini_store)
    backbone, passport = load_backbone(run_dir)
    rows = store.select(folds=[8, 9])
    cut = {"passport": passport, "window_samples": 250, "stride_samples": 125}
    features_nd, record_row_n = window_features(backbone, store, rows, **cut)
    assert features_nd.dtype == np.float32
    assert features_nd.shape == (7 * len(rows), 15)
    assert record_row_n.tolist() == np.repeat(rows, 7).tolist()
    assert len(np.unique(features_nd[:7], axis=0)) == 7
    # Features hang on the record alone: not on its neighbours, nor on the batch.
    alone = window_features(backbone, store, rows[1:2], batch_size=3, **cut)
    assert np.allclose(alone.features_nd, features_nd[7:14], atol=1e-5)


def test_features_of_signals_prepared_otherwise_are_refused(run_dir, mini, tmp_path):
    backbone, passport = load_backbone(run_dir)
    ingest_folder(mini, tmp_path / "raw.ecg", IngestSettings(fs_hz=100, filters=()))
    with pytest.raises(PassportError, match="filters differs"):
        window_features(
            backbone,
            open_store(tmp_path / "raw.ecg"),
            np.arange(3),
            passport=passport,
            window_samples=250,
            stride_samples=125,
        )


def test_a_patient_on_both_sides_is_refused(tmp_path, write_record):
    labels = ["record_id,patient_id,fold"]
    for i in range(20):
        write_record(tmp_path / "wfdb", f"r{i}", fs="500")
        labels.append(f"r{i},p{i % 10},{1 + i // 10}")
    (tmp_path / "wfdb" / "labels.csv").write_text("\n".join(labels) + "\n")
    source = {"name": "wfdb_folder", "labels": "labels.csv"}
    settings = IngestSettings(fs_hz=100, source=source, filters=(), patient_key="public")
    ingest_folder(tmp_path / "wfdb", tmp_path / "shared.ecg", settings)
    with pytest.raises(LeakageError, match="10 patients are in the training and in the validation folds"):
        learn(recipe(tmp_path / "shared.ecg", folds=[1], validation_folds=[2]), tmp_path / "run")


def test_a_recipe_without_pretraining_has_nothing_to_pretrain(mini_store, tmp_path):
    bare = recipe(mini_store).model_copy(update={"pretrain": None})
    with pytest.raises(ConfigError, match="no section pretrain"):
        learn(bare, tmp_path)


def test_recorded_noise_reaches_the_views_and_is_part_of_the_run(mini_store, bank_folder, tmp_path, monkeypatch):
    seen = []
    muscle = parse(RecordedNoise, {"kind": "nstdb-ma", "rms_mv": [0.2, 0.2]})

    def cut(settings, batch):
        seen.append((batch.augmented([muscle], 0) - batch.normalise(batch.mv)).std().item())
        return plain_views(settings, batch)

    plain_views = cpc.views
    monkeypatch.setattr(cpc, "views", cut)
    made = recipe(mini_store, normalise="none")
    made = made.model_copy(update={"data": made.data.model_copy(update={"noise_bank": str(bank_folder)})})
    learn(made, tmp_path / "run")
    # Each lead has cos and sin of two signals of unit RMS.
    assert all(0.1 < std < 0.3 for std in seen)
    about = checkpoint.load_config(checkpoint.last(tmp_path / "run" / "checkpoints"))
    assert sorted(about["data.noise_bank"]) == ["nstdb-bw", "nstdb-em", "nstdb-ma"]
    bare = recipe(mini_store, normalise="none")
    with pytest.raises(CheckpointError, match=r"other settings: data\.noise_bank differs"):
        learn(bare, tmp_path / "run", resume=True)
    lost = made.model_copy(update={"data": made.data.model_copy(update={"noise_bank": str(tmp_path)})})
    with pytest.raises(SourceError, match="there is no recorded noise"):
        learn(lost, tmp_path / "other")


def test_a_run_says_that_what_it_excludes_counts_in_its_normalisation(mini_store, tmp_path):
    """A run of before normalised by the excluded folds too, and must not go on with other numbers."""
    for name, excluded in (("all", ()), ("less", (2,))):
        made = recipe(mini_store)
        made = made.model_copy(update={"data": made.data.model_copy(update={"exclude_folds": excluded})})
        learn(made, tmp_path / name)
        said = json.loads((checkpoint.last(tmp_path / name / "checkpoints") / "config.json").read_text())
        assert ("statistics" in said) == bool(excluded)


def test_signals_are_normalised_by_what_is_trained_on(mini_store, tmp_path):
    store = open_store(mini_store)
    made = recipe(mini_store)

    def normalisation(**settings):
        data = made.data.model_copy(update=settings)
        passport, (part,) = selected(made.model_copy(update={"data": data}), store)
        return passport.normalisation, part.rows

    whole, rows = normalisation()
    exact = store.statistics(folds=range(1, 7))
    assert list(whole.mean_mv.values()) == exact.mean_mv_l.tolist()
    # The same records, sample by sample: the same integers.
    assert statistics_of(store, rows).mean_mv_l.tolist() == exact.mean_mv_l.tolist()
    assert statistics_of(store, rows).std_mv_l.tolist() == exact.std_mv_l.tolist()
    assert normalisation(exclude_folds=(2,))[0].std_mv["II"] == store.statistics(folds=[1, 3, 4, 5, 6]).std_mv_l[1]
    (tmp_path / "patients.txt").write_text(str(store.column("patient_key")[rows[0]]))
    for settings in ({"exclude_patients": str(tmp_path / "patients.txt")}, {"where": "sex == 'female'"}):
        some, chosen = normalisation(**settings)
        assert 0 < len(chosen) < len(rows)
        signals = [store.read(store.column("record_id")[row]).signal_mv_lt[1] for row in chosen]
        signal_mv = np.concatenate(signals).astype(np.float64)
        assert some.mean_mv["II"] == pytest.approx(np.nanmean(signal_mv), abs=1e-6)
        assert some.std_mv["II"] == pytest.approx(np.nanstd(signal_mv), rel=1e-6)
        assert some != whole


def test_an_export_has_the_statistics_of_clean_windows(run_dir, mini_store):
    made = recipe(mini_store)
    passport, parts = selected(made, open_store(mini_store))
    backbone = build_backbone(made.pretrain.backbone, 12, seed=5)
    weights = checkpoint.load_weights(checkpoint.last(run_dir / "checkpoints"))
    trained = {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}
    backbone.load_state_dict(trained)
    calibrate(backbone, made, parts, passport, "cpu")
    exported = load_backbone(run_dir).backbone.state_dict()
    changed = [name for name, value in exported.items() if not torch.equal(value, trained[name])]
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in exported.items())


def test_sources_folds_and_patients_are_left_out(mini_store, run_dir, tmp_path):
    store = open_store(mini_store)
    passport = checkpoint.load_passport(run_dir / "export")
    data = recipe(mini_store).data
    folds = range(1, 7)

    def rows(**settings):
        (part,) = select_parts(data.model_copy(update=settings), store, folds, passport)
        return part.rows.tolist()

    everyone = store.select(folds=folds).tolist()
    assert rows() == everyone
    assert rows(exclude_folds=(2, 3)) == store.select(folds=[1, 4, 5, 6]).tolist()
    with pytest.raises(ConfigError, match="data.exclude_sources names 'ptbx'.*did you mean ptbxl"):
        rows(exclude_sources=("ptbx",))
    assert rows(exclude_sources=("ptbxl",)) == []
    keys = store.column("patient_key")
    unwanted = {str(keys[everyone[0]]), str(keys[everyone[5]])}
    (tmp_path / "patients.txt").write_text("\n".join([*unwanted, "somebody-else"]) + "\n")
    kept = rows(exclude_patients=str(tmp_path / "patients.txt"))
    assert kept == [row for row in everyone if keys[row] not in unwanted]
    assert len(kept) <= len(everyone) - 2
    # Another run's list: all whom it saw in training and validation.
    assert rows(exclude_patients=str(run_dir / "seen.parquet")) == []
    (tmp_path / "nobody.txt").write_text("nobody\n")
    with pytest.raises(ConfigError, match="none of the patients to leave out is in the stores"):
        rows(exclude_patients=str(tmp_path / "nobody.txt"))
    with pytest.raises(ConfigError, match="the patients to leave out can't be read"):
        rows(exclude_patients=str(tmp_path / "nothing.parquet"))


@pytest.mark.learning
def test_a_representation_is_watched_while_it_grows(mini_store, tmp_path):
    made = recipe(mini_store, validation_folds=[7, 8], online_probe="ptbxl/superdiagnostic", log_every_steps=2)
    learn(made, tmp_path / "run")
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    probed = {line["step"]: line["online_probe_auroc"] for line in lines if line["split"] == "probe"}
    assert probed.keys() == {3, 6}
    assert all(0 <= value <= 1 for value in probed.values())
    train = [line for line in lines if line["split"] == "train"]
    assert all(line["feature_std"] > 0 and line["effective_rank"] >= 1 for line in train)
    # It is only looked at: the weights are those of the run without.
    learn(recipe(mini_store, validation_folds=[7, 8], log_every_steps=2), tmp_path / "plain")
    weights = [(tmp_path / name / "export" / "model.safetensors").read_bytes() for name in ("run", "plain")]
    assert weights[0] == weights[1]
    with pytest.raises(ConfigError, match="online_probe needs validation_folds"):
        recipe(mini_store, validation_folds=[], online_probe="ptbxl/superdiagnostic")


def test_a_network_refuses_windows_before_any_is_read(mini_store, tmp_path, monkeypatch):
    from ecgtrain.data import feed

    monkeypatch.setattr(feed, "Opening", None)  # whoever reads, fails otherwise
    lcd = {"name": "lcd", "width": 8, "augmentations": []}
    with pytest.raises(ConfigError, match="too short"):
        learn(recipe(mini_store, method=lcd, backbone={"name": "vgg1d"}, window_samples=20), tmp_path / "run")
    short = {"backbone": {"name": "xresnet1d"}, "method": {"name": "simclr"}, "window_samples": 20}
    with pytest.raises(ConfigError, match="window"):
        learn(recipe(mini_store, **short), tmp_path / "run")
    byol = {"backbone": {"name": "xresnet1d"}, "method": {"name": "byol"}, "accumulate": 8}
    with pytest.raises(ConfigError, match="too few windows to be divided so often.*expected.*16 or more, got 8"):
        learn(recipe(mini_store, **byol), tmp_path / "run")
    two_leads = recipe(mini_store, method=lcd, backbone={"name": "vgg1d"})
    two_leads = two_leads.model_copy(update={"data": two_leads.data.model_copy(update={"leads": ("II",)})})
    with pytest.raises(ConfigError, match="lcd compares leads of a record; expected two leads or more, got 1"):
        learn(two_leads, tmp_path / "run")
