"""Whether what was installed is whole: ``python -I tests/installed.py FOLDER``, by the Python that has it.

Run by `nox -s package` and tests/e2e/test_package.py, in environments that hold no file of the repository but this one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

import ecgstore
import ecgstore.kernel
import ecgtrain

REPOSITORY = Path(__file__).resolve().parents[1]
BRIEF = (
    "pretrain.steps=2",
    "pretrain.batch_size=8",
    "pretrain.backbone={name: cpc_lstm, encoder: {width: 8}, lstm_width: 8}",
)


def said(program: str, *words: object) -> str:
    """What a program that was installed beside this Python says."""
    command = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def check(folder: Path) -> None:
    """From raw records to a report, to be looked at in a browser; raises where something is not as it should be."""
    for package in (ecgstore, ecgtrain):
        # nox puts environments below the repository, too.
        found = Path(str(package.__file__)).resolve()
        assert not found.is_relative_to(REPOSITORY / package.__name__), f"{found} is not what was installed"
    has_compiler = shutil.which("cc") is not None
    assert (ecgstore.kernel.NAME == "compiled") is has_compiler
    for program in ("ecgstore", "ecgtrain"):
        assert said(program, "--version").strip() == f"{program}, version {ecgstore.__version__}"
        assert said(program, "completion", "bash").startswith(f"_{program}_completion() {{")
    recipes = {one["name"] for one in json.loads(said("ecgtrain", "recipes", "--json").splitlines()[-1])}
    assert {"demo", "small/cpc", "paper_b"} <= recipes

    store, page, run = folder / "mini.ecg", folder / "page.html", folder / "run"
    said("ecgstore", "ingest", REPOSITORY / "tests" / "data" / "ptbxl_mini", store, "--workers", 1)
    said("ecgstore", "verify", store, "--deep")
    said("ecgstore", "report", store, "--out", page, "--pages", 1)
    assert "<html" in page.read_text(encoding="utf-8")
    assert len(ecgstore.open_store(store)) == 53
    settings = [word for one in (*BRIEF, f"data.store={store}") for word in ("--set", one)]
    said("ecgtrain", "run", "demo", *settings, "--out", run)
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert ecgtrain.load_backbone(run).passport.leads == ecgstore.LEADS_12
    look(store)


def look(store: Path) -> None:
    """The page in the browser, with what it loads."""
    program = Path(sys.executable).with_name("ecgstore")
    with subprocess.Popen([program, "view", store, "--no-browser"], stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            # The address holds a secret, and is answered with a cookie.
            asks = build_opener(ProxyHandler({}), HTTPCookieProcessor())
            with asks.open(serving.stdout.readline().strip(), timeout=60) as answer:
                assert b"<html" in answer.read()
        finally:
            serving.terminate()


if __name__ == "__main__":
    check(Path(sys.argv[1]))
