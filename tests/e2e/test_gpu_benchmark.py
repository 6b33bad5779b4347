"""The script for GPUs runs on a processor, too, and tells right from wrong there."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
METHODS = ("cpc", "swav")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("gpu")


@pytest.fixture(scope="module")
def measured(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    named = [word for name in METHODS for word in ("--method", name)]
    before = torch.get_float32_matmul_precision()
    told = CliRunner().invoke(
        script.main,
        ["--device", "cpu", "--small", "--seconds", "1", *named, "--json", str(out)],
        catch_exceptions=False,
    )
    assert told.exit_code == 0
    assert torch.get_float32_matmul_precision() == before
    return json.loads(out.read_text(encoding="utf-8")), told.stdout


@pytest.mark.slow
def test_all_parts_are_measured(measured: tuple[dict[str, Any], str]) -> None:
    found, table = measured
    assert found["left_out"] == {}
    assert found["machine"]["device"] == "cpu"
    assert set(found["matrix"]) == {"float32", "bfloat16"}
    assert all(rate > 0 for rate in found["matrix"].values())
    assert found["lstm"]["of_cpc"] == {"given": "float32", "gave": "float32"}
    assert set(found["feed"]["windows_per_s"]) == {"resident", "device", "memmap", "stream"}
    for name in METHODS:
        its = found["train"][name]
        assert its["peak_memory_bytes"] > 0
        assert 0 <= its["loop"]["waiting"] <= 1
        assert all(its[part]["windows_per_s"] > 0 for part in ("feed", "views", "step", "loop"))
        assert its["step"]["of_ceiling"] > 0
        assert f"| {name}, float32 |" in table
    hours = found["train"]["cpc"]["hours_of_the_paper"]
    assert hours["of_the_papers_records"] > hours["of_ptbxl_folds_1_to_8"] > 0
    assert "hours_of_the_paper" not in found["train"]["swav"]
    assert "no figures" in table


def test_each_method_is_compared_with_the_processor(measured: tuple[dict[str, Any], str]) -> None:
    found, table = measured
    for name in METHODS:
        its = found["right"][name]
        assert its["views_apart"] == 0
        assert its["of"]["float32"]["right"] is True
        assert 0 < its["of"]["float32"]["gradient_off"] < 1e-3 < its["of"]["bfloat16"]["gradient_off"]
        assert its["of"]["bfloat16"]["right"] is None  # the small recipes are float32
    assert "**no**" not in table


def test_a_wrong_gradient_is_told(script: ModuleType) -> None:
    expected = script.Stepped(2.0, torch.tensor([3.0, 4.0]))
    for loss, gradient, is_right in ((2.0, [3.0, 4.001], True), (2.1, [3.0, 4.0], False), (2.0, [3.0, 4.1], False)):
        found = script._compared(script.Stepped(loss, torch.tensor(gradient)), expected, script.TOLERANCES["float32"])
        assert found["right"] is is_right


def test_what_fails_is_told_and_the_rest_goes_on(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(script, "right", refuse)
    found = script.measure(script.TRIED, torch.device("cpu"), ["cpc"], ["right", "matrix"], 1.0, lambda _: None)
    assert found["left_out"] == {"right: cpc": "RuntimeError: no memory at all"}
    assert found["matrix"]["float32"] > 0
    assert "Left out: right: cpc: RuntimeError: no memory at all" in script.tables(found)


def test_every_method_has_a_published_recipe(script: ModuleType) -> None:
    from ecgstore.inner import occupants
    from ecgtrain import config
    from ecgtrain.recipes import shipped

    assert set(script.PUBLISHED.values()) <= set(shipped())
    named = {config.load(name).pretrain.method.name for name in script.PUBLISHED.values()}
    assert named == set(occupants("ecgtrain.methods"))


def test_what_was_found_before_an_interruption_is_kept(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "right", interrupt)
    found = script.measure(script.TRIED, torch.device("cpu"), ["cpc"], ["matrix", "right", "feed"], 1.0, lambda _: None)
    assert found["matrix"]["float32"] > 0
    assert "feed" not in found
    assert "Left out: the rest: it was interrupted" in script.tables(found)


def test_a_machine_without_a_gpu_is_told_in_a_line(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = CliRunner().invoke(script.main, [])
    assert told.exit_code == 1
    assert told.stderr == "Error: no GPU is found here; to see that the script works: --device cpu --small\n"
