"""Two at once in one run directory: one works, the other is refused in one line and changes no file.

Delays are random and come from a seed; no clock is read.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from processes import Ended, Started

from ecgstore import EcgError
from ecgstore.inner import parse
from ecgtrain.config import RunConfig, dump
from ecgtrain.errors import ClaimedError
from ecgtrain.representation.export import load_backbone
from ecgtrain.run import evaluate_store, learn, merge_reports, run
from ecgtrain.training.claim import claimed, looked_at

ROUNDS = 50


def recipe(store: Path, **changes) -> RunConfig:
    pretrain = {
        "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
        "folds": [1, 2, 3],
        "window_samples": 100,
        "batch_size": 4,
        "steps": 2,
    }
    content = {"name": "tiny", "data": {"store": str(store)}, "pretrain": pretrain, **changes}
    return parse(RunConfig, content)


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_many_rounds_of_several_who_want_one_directory(tmp_path):
    draw, inside, most = random.Random(3), [0], []

    def work(delays_s: tuple[float, float]) -> str:
        time.sleep(delays_s[0])
        try:
            with claimed(tmp_path / "run"):
                inside[0] += 1
                most.append(inside[0])
                time.sleep(delays_s[1])
                inside[0] -= 1
                return "done"
        except ClaimedError as error:
            return str(error)

    said = set()
    with ThreadPoolExecutor(3) as pool:
        for _ in range(ROUNDS):
            outcomes = list(pool.map(work, [(draw.uniform(0, 0.004), draw.uniform(0, 0.004)) for _ in range(3)]))
            assert "done" in outcomes
            said |= set(outcomes)
    assert max(most) == 1
    assert len(said) > 1, "they met"
    for text in said - {"done"}:
        assert text.startswith("another process is at work in this directory; in ")
        assert "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_who_holds_it_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    with (
        claimed(tmp_path / "run"),
        pytest.raises(ClaimedError, match=rf"got process {os.getpid()} on \S+, since \d{{4}}-\d\d-\d\d"),
        claimed(tmp_path / "run"),
    ):
        pass


def test_many_may_read_and_nobody_writes_meanwhile(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    with looked_at(place), looked_at(place), pytest.raises(ClaimedError), claimed(place):
        pass
    with claimed(place), pytest.raises(ClaimedError), looked_at(place):
        pass
    (tmp_path / "link").symlink_to(place)
    with claimed(tmp_path / "link"), pytest.raises(ClaimedError), claimed(place):
        pass
    with looked_at(tmp_path / "nothing"):
        assert not (tmp_path / "nothing").exists()


def test_a_process_that_died_leaves_no_lock_even_where_its_child_lives(tmp_path):
    """The child is forked while the lock is held, and lives on when its parent is killed."""
    told, tell = os.pipe()
    parent = os.fork()
    if parent == 0:
        with claimed(tmp_path / "run"):
            child = os.fork()
            if child:
                os.write(tell, child.to_bytes(4, "little"))
            time.sleep(60)
        os._exit(0)
    child = int.from_bytes(os.read(told, 4), "little")
    try:
        with pytest.raises(ClaimedError, match=f"process {parent}"), claimed(tmp_path / "run"):
            pass
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with claimed(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_whoever_comes_second_changes_no_file(mini_store, tmp_path):
    place = tmp_path / "run"
    learn(recipe(mini_store), place)
    before = content_of(tmp_path)
    attempts = (
        lambda: run(recipe(mini_store), place),
        lambda: run(recipe(mini_store, seed=7), place, resume=True),
        lambda: learn(recipe(mini_store), place, resume=True),
        lambda: evaluate_store(place, str(mini_store)),
        lambda: evaluate_store(place, str(mini_store), out=place),
        lambda: merge_reports([place], place),
    )
    with claimed(place):
        held = content_of(tmp_path)
        for attempt in attempts:
            with pytest.raises(ClaimedError):
                attempt()
        assert content_of(tmp_path) == held
    assert content_of(tmp_path) == before


def test_a_run_holds_its_directory_from_its_first_file_to_its_end(mini_store, tmp_path):
    code = "import sys; from ecgtrain.cli import main; sys.argv = ['ecgtrain', *sys.argv[1:]]; main()"
    made = recipe(mini_store)
    (tmp_path / "tiny.yaml").write_text(dump(made))
    words = ("run", tmp_path / "tiny.yaml", "--out", tmp_path / "run", "--device", "cpu")
    first = Started(code, *words, "--set", "pretrain.steps=1000000")
    try:
        while first.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
            time.sleep(0.02)
        assert first.poll() is None
        with pytest.raises(ClaimedError, match="another process is at work"):
            run(made.model_copy(update={"seed": 9}), tmp_path / "run", resume=True)
        assert "seed: 0" in (tmp_path / "run" / "config.yaml").read_text()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with claimed(tmp_path / "run"):
        pass


class InThread:
    """What :class:`processes.Started` is, for a thread: a process takes seconds to begin."""

    def __init__(self, made: RunConfig, place: Path, resume: bool) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._told = self._pool.submit(told, lambda: run(made, place, resume=resume))

    def poll(self) -> int | None:
        return self.wait().status if self._told.done() else None

    def wait(self) -> Ended:
        self._pool.shutdown()
        said = self._told.result()
        return Ended(int(isinstance(said, str)), "", said if isinstance(said, str) else "")


def in_process(made: RunConfig, place: Path, resume: bool) -> Started:
    """``ecgtrain run`` as users start it."""
    recipe_file = place.with_suffix(".yaml")
    recipe_file.write_text(dump(made))
    words = ("run", recipe_file, "--out", place, "--device", "cpu", *(["--resume"] if resume else []))
    return Started("-m ecgtrain", *words)


#: A few in the suite; as many as a promise needs where there is time.
FEW_AND_MANY = [
    pytest.param(InThread, 2, id="few"),
    pytest.param(in_process, ROUNDS, id="many", marks=pytest.mark.slow),
]
QUESTION = {
    "name": "q",
    "task": "ptbxl/superdiagnostic",
    "train_folds": [1, 2, 3],
    "test_folds": [8],
    "window_samples": 100,
    "stride_samples": 500,
    "settings": {"penalties": [1.0]},
}


def told(do) -> object:
    """What it gave, or what it was told in one line."""
    try:
        return do()
    except EcgError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "rounds"), FEW_AND_MANY)
def test_rounds_of_two_runs(mini_store, tmp_path, start, rounds):
    """One of two makes the run, all of it; the other is refused, while that is at work or when it is done."""
    draw = random.Random(rounds)
    recipes = [recipe(mini_store, seed=seed) for seed in (0, 1)]
    weights_of: dict[int, list[torch.Tensor]] = {}
    for number in range(rounds):
        place, mine = tmp_path / f"run{number}", draw.randrange(2)
        theirs = start(recipes[1 - mine], place, False)
        until = place / draw.choice([".", "config.yaml", "metrics.jsonl", "export"])
        while draw.random() < 0.98 and theirs.poll() is None and not until.exists():
            time.sleep(0.02)
        ours = told(lambda place=place, mine=mine: run(recipes[mine], place))
        ended = theirs.wait()
        assert (ended.status == 0) == isinstance(ours, str), (ended, ours)
        refusal = ours if isinstance(ours, str) else ended.errors
        assert "another process is at work" in refusal or "already" in refusal, refusal
        # What a command said before of what it was about to do may stand above.
        assert "another" in refusal.splitlines()[-1] or "already" in refusal.splitlines()[-1], refusal
        winner = 1 - mine if ended.status == 0 else mine
        assert f"seed: {winner}\n" in (place / "config.yaml").read_text()
        weights = list(load_backbone(place).backbone.state_dict().values())
        torch.testing.assert_close(weights, weights_of.setdefault(winner, weights), rtol=1e-3, atol=1e-4)
        others = weights_of.get(1 - winner, ())
        assert not others or not all(map(torch.allclose, weights, others))


@pytest.mark.slow
@pytest.mark.parametrize(("start", "rounds"), FEW_AND_MANY)
def test_rounds_of_a_run_and_its_evaluation(mini_store, tmp_path, start, rounds):
    """Whoever evaluates gets the numbers of a whole run, or is told; a run that is refused has changed nothing."""
    draw = random.Random(rounds)
    run(recipe(mini_store, downstream=[QUESTION]), tmp_path / "before")
    both = recipe(mini_store, downstream=[QUESTION, {**QUESTION, "name": "second", "train_folds": [1, 2]}])
    seen: list[dict[str, object]] = []
    for number in range(rounds):
        place = tmp_path / f"run{number}"
        shutil.copytree(tmp_path / "before", place)
        files = content_of(place)
        theirs = start(both, place, True)
        looks = []
        while theirs.poll() is None and len(looks) < 20:
            time.sleep(draw.uniform(0, 0.5))
            looks.append(told(lambda place=place: evaluate_store(place, str(mini_store)).results))
        ended = theirs.wait()
        looks.append(evaluate_store(place, str(mini_store)).results)
        for look in looks:
            if isinstance(look, str):
                assert look.startswith("another process is at work"), look
            else:
                seen.append({one.name: one.metrics for one in look})
        if ended.status:
            assert "another process is at work" in ended.errors, ended
            assert content_of(place) == files
        else:
            assert len(looks[-1]) == 2
    whole = max(seen, key=len)
    assert all(one in (whole, {"q": whole["q"]}) for one in seen)
