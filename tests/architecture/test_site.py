"""The documentation site is built without a warning, and its pages ask nothing of another machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages_in(nav: Any) -> list[str]:
    """Every page that a navigation names, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_in(part)]


def test_the_navigation_names_every_page_and_decisions_stand_last() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = pages_in(config["nav"])
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    there |= {path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.ipynb")}
    outside = {page for page in named if page.startswith("project/")}
    assert len(named) == len(set(named))
    assert set(named) - outside == {page for page in there if not re.match(r"adr/0", page)}
    assert named[-1] == "adr/README.md"
    assert config["strict"] is True


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("material", reason='mkdocs-material is not installed: pip install ".[docs]"')
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert len(built) > 70
    for page in built:
        text = page.read_text(encoding="utf-8")
        # What a browser loads by itself; a link waits for a click.
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>", text)
        loaded += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>", text)
        assert loaded == [], page.name
        assert "```" not in text, f"{page.name}: a block was not understood"
    api = (tmp_path / "site" / "api" / "ecgstore.html").read_text(encoding="utf-8")
    for name in ("open_store", "Store.read", "Store.to_xarray", "IngestSettings.mains_hz", "sharing.pull"):
        assert f'id="ecgstore.{name}"' in api
    # What stands above a field, and names in docstrings, which lead to where they are explained.
    assert "Frequency of the mains where the records were made" in api
    assert 'href="#ecgstore.write_records"' in api
    assert not re.search(r":(?:func|class|meth|attr|data|mod):", api)
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name
