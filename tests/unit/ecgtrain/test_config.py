from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.backbones import cpc_lstm
from ecgtrain.backbones.layers.encoder import Encoder
from ecgtrain.cli import main
from ecgtrain.config import RunConfig
from ecgtrain.methods import cpc
from ecgtrain.recipes import RECIPES, shipped

RECIPE = {
    "name": "small",
    "data": {"store": "some.ecg"},
    "pretrain": {
        "method": {"name": "cpc", "steps_ahead": 4},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 8}},
        "folds": [1, 2],
        "validation_folds": [3],
        "window_samples": 250,
        "batch_size": 4,
        "steps": 10,
    },
    "downstream": [
        {
            "name": "super",
            "task": "ptbxl/superdiagnostic",
            "train_folds": [1, 2],
            "test_folds": [4],
            "window_samples": 250,
            "stride_samples": 125,
            "nulls": ["random"],
        }
    ],
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_sections_are_parsed_by_the_files_they_name(recipe):
    made = config.load(recipe)
    assert made.pretrain.method == cpc.Settings(steps_ahead=4)
    assert made.pretrain.backbone == cpc_lstm.Settings(encoder=Encoder(width=8))
    assert made.pretrain.optimiser.lr == 1e-4


def test_a_recipe_survives_the_round_trip(recipe, tmp_path):
    made = config.load(recipe, ["seed=7", "pretrain.method.n_negatives=16", "data.leads=[I, II, V1]"])
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(made))
    assert config.load(again) == made
    assert (made.seed, made.pretrain.method.n_negatives, made.data.leads) == (7, 16, ("I", "II", "V1"))


def test_every_bundled_recipe_survives_the_round_trip(tmp_path):
    assert shipped()
    for name in shipped():
        again = tmp_path / "again.yaml"
        again.write_text(config.dump(config.load(name)))
        assert config.load(again) == config.load(name), name


def test_a_recipe_is_a_file_or_the_name_of_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.find("small/cpc") == RECIPES / "small" / "cpc.yaml"
    mine = tmp_path / "small" / "cpc"
    mine.parent.mkdir()
    mine.write_text("name: mine\ndata: {store: x.ecg}\n")
    # What stands here is what is meant, as with any command.
    assert config.load("small/cpc").name == "mine"
    for wrong in ("small/cpx", "recipes/small/cpc.yaml", "small/cp"):
        with pytest.raises(ConfigError, match="no such recipe.*did you mean small/cpc"):
            config.find(wrong)
    for wrong in ("../config", "", "small", "nothing/like/it"):
        with pytest.raises(ConfigError, match="no such recipe"):
            config.find(wrong)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.windw_samples=3", "unknown setting pretrain.windw_samples.*did you mean window_samples"),
        (
            "pretrain.method.steps_ahed=3",
            "setting pretrain.method: unknown setting steps_ahed; did you mean steps_ahead",
        ),
        ("pretrain.method.name=cpcc", "setting pretrain.method: unknown method 'cpcc'; did you mean cpc"),
        ("pretrain.backbone.name=lstm", "setting pretrain.backbone: unknown backbone 'lstm'"),
        ("pretrain.method=[cpc]", "setting pretrain.method: this section must hold a mapping with a name"),
        ("pretrain.optimiser.schedule=linear", "pretrain.optimiser.schedule"),
        ("pretrain.epochs=3", "exactly one of steps and epochs"),
        ("pretrain.steps=null", "exactly one of steps and epochs"),
        ("pretrain.folds=[]", "pretrain.folds"),
        ("pretrain.validation_folds=[2, 3]", "folds and validation_folds share fold 2"),
        ("downstream.0.test_folds=[2]", "train_folds and test_folds share fold 2"),
        ("seed=-1", "seed"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(recipe, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(recipe, [override])
    assert "\n" not in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_choosing_the_best_needs_something_to_choose_by(recipe):
    with pytest.raises(ConfigError, match="needs validation_folds"):
        config.load(recipe, ["pretrain.keep=best", "pretrain.validation_folds=[]"])


def test_two_questions_must_not_share_a_name():
    twice = {**RECIPE, "downstream": RECIPE["downstream"] * 2}
    with pytest.raises(ConfigError, match="two downstream entries are called super"):
        parse(RunConfig, twice)


def test_epochs_become_steps():
    by_epochs = {**RECIPE["pretrain"], "epochs": 3, "steps": None}
    assert parse(RunConfig, {**RECIPE, "pretrain": by_epochs}).pretrain.n_steps(steps_per_epoch=13) == 39
    assert parse(RunConfig, RECIPE).pretrain.n_steps(steps_per_epoch=13) == 10


def test_settings_are_frozen(recipe):
    with pytest.raises(ValueError, match="frozen"):
        config.load(recipe).pretrain.batch_size = 8


@pytest.mark.parametrize("module", ["ecgtrain", "ecgtrain.config", "ecgtrain.errors", "ecgtrain.data.plan"])
def test_light_modules_do_not_import_torch(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_the_door_names_the_extra():
    code = (
        "import importlib.util as u, sys; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a)\n"
        "import ecgstore\n"
        "import ecgtrain\n"
        "try: ecgtrain.load_backbone\n"
        "except ecgstore.MissingExtra as error: sys.exit('ecgstore[train]' not in str(error))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_method_goes_by_its_name():
    pretrain = {
        "method": {"name": "/some/where/mine.py"},
        "backbone": {"name": "cpc_lstm"},
        "folds": [1],
        "window_samples": 100,
        "batch_size": 8,
        "steps": 1,
    }
    with pytest.raises(ConfigError, match=r"go by their names.*put the file into ecgtrain/methods"):
        parse(RunConfig, {"data": {"store": "s"}, "name": "n", "pretrain": pretrain})


def written(tmp_path, file, **content):
    path = tmp_path / f"{file}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_recipe_extends_another_one_key_by_key(recipe, tmp_path):
    path = written(
        tmp_path, "more", extends="recipe.yaml", name="more", pretrain={"steps": 20, "method": {"steps_ahead": 8}}
    )
    made, below = config.load(path), config.load(recipe)
    assert (made.name, made.pretrain.steps) == ("more", 20)
    assert made.pretrain.method == cpc.Settings(steps_ahead=8)
    assert made.pretrain.backbone == below.pretrain.backbone
    assert made.downstream == below.downstream
    assert config.load(path, ["pretrain.steps=30"]).pretrain.steps == 30
    assert "extends" not in config.dump(made)


def test_lists_and_sections_of_another_name_take_the_place_of_the_others(recipe, tmp_path):
    other = {"name": "lcd", "gamma": 0.1}
    path = written(tmp_path, "other", extends="recipe.yaml", pretrain={"method": other, "folds": [5]}, downstream=[])
    made = config.load(path)
    assert made.pretrain.method.model_dump()["gamma"] == 0.1
    assert made.pretrain.folds == (5,)
    assert made.downstream == ()
    assert config.load(written(tmp_path, "shipped", extends="small/cpc")).name == "small-cpc"
    # What stands on the command line takes its place.
    path = written(tmp_path, "mine", extends="small/cpc", seed=9)
    turned = config.load(path, ["extends=small/lcd", "pretrain.steps=7"])
    assert (turned.pretrain.method.name, turned.pretrain.steps, turned.seed) == ("lcd", 7, 9)
    assert config.load("small/cpc", ["extends=small/lcd"]).pretrain.method.name == "cpc"  # which says all by itself
    with pytest.raises(ConfigError, match="did you mean small/lcd"):
        config.load(path, ["extends=small/lce"])


def test_what_is_extended_must_be_there_and_whole(recipe, tmp_path):
    written(tmp_path, "twice", extends="recipe.yaml")
    for named, said in (
        ("twice.yaml", "can't extend another"),
        ("small/cpcc", "did you mean small/cpc"),
        (["a"], "one other"),
    ):
        with pytest.raises(ConfigError, match=said):
            config.load(written(tmp_path, "bad", extends=named))


def test_one_that_extends_another_is_extended_when_it_is_written_out_as_the_error_says(tmp_path):
    with pytest.raises(ConfigError, match="which extends small/simclr; .*ecgtrain show small/paper_b_labels > whole"):
        config.load(written(tmp_path, "mine", extends="small/paper_b_labels"))
    (tmp_path / "whole.yaml").write_text(CliRunner().invoke(main, ["show", "small/paper_b_labels"]).stdout)
    mine = config.load(written(tmp_path, "mine", extends="whole.yaml", seeds=[7]))
    theirs = config.load("small/paper_b_labels")
    assert mine.model_dump(exclude={"seeds"}) == theirs.model_dump(exclude={"seeds"})


def test_a_recipe_of_a_run_runs_no_code_because_it_is_extended(recipe, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "seen.parquet").touch()
    (run / "task.py").write_text("raise SystemExit('it ran')\n")
    content = yaml.safe_load(recipe.read_text())
    content["downstream"][0]["task"] = f"{run / 'task.py'}/x"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="not run unless you name it"):
        config.load(written(tmp_path, "mine", extends="run/config.yaml"))


@pytest.mark.parametrize("command", ["--help", "methods", "recipes"])
def test_a_list_needs_no_torch(command):
    code = "import sys; from ecgtrain.cli import main\n"
    code += f"try: main([{command!r}])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
