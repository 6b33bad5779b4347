"""Several processes push into one share at the same moment: nothing is lost, and no tag means a part."""

from __future__ import annotations

from pathlib import Path

import pytest
from racing import pushers, race
from shares import S3, Between


def test_of_three_that_push_nothing_is_lost(tmp_path: Path) -> None:
    with pushers(3) as racing:
        race(racing, str(tmp_path / "share"), tmp_path / "stores", 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("where", ["folder", "bucket"])
@pytest.mark.parametrize("n", [2, 8])
def test_of_several_that_push_for_fifty_rounds_nothing_is_lost(
    n: int, where: str, tmp_path: Path, at_s3: S3, between: Between
) -> None:
    url = str(tmp_path / "share") if where == "folder" else f"{at_s3.bucket()}/share"
    with pushers(n) as racing:
        race(racing, url, tmp_path / "stores", 50)
