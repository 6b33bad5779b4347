"""Two teams and one store: A ingests and shares, B trains and adds to it, a patient of A's withdraws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from hostile_runs import RECIPE
from shares import S3, at_s3, s3

import ecgstore.cli
import ecgtrain.cli
from ecgstore import open_store

__all__ = ["at_s3", "s3"]

#: Seven shards; at 100 Hz it would be two.
INGEST = ("--fs", "500")


def call(program: Any, *words: object) -> Any:
    done = CliRunner().invoke(program.main, [str(word) for word in words])
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return done


def answer(program: Any, *words: object) -> dict[str, Any]:
    done = call(program, *words, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_two_teams(mini: Path, tmp_path: Path, at_s3: S3) -> None:
    store, train = ecgstore.cli, ecgtrain.cli
    url = f"{at_s3.bucket()}/ptbxl"
    team_a, team_b = tmp_path / "a", tmp_path / "b"
    team_b.mkdir()
    # A has half of the corpus by now, and everything that goes with it.
    shutil.copytree(mini, team_a / "ptbxl")
    table = pd.read_csv(mini / "ptbxl_database.csv")
    table.iloc[::2].to_csv(team_a / "ptbxl" / "ptbxl_database.csv", index=False)
    (team_a / "card.yaml").write_text("title: PTB-XL, half of it\nlicence: CC-BY-4.0\n")
    said = answer(store, "ingest", team_a / "ptbxl", team_a / "v1.ecg", *INGEST, "--card", team_a / "card.yaml")
    first = open_store(team_a / "v1.ecg")
    assert (said["records"], first.n_records) == (27, 27)
    (team_a / "age.csv").write_text("record_id,older\n" + "".join(f"{one},1\n" for one in first.column("record_id")))
    answer(store, "sidecar", "add", team_a / "v1.ecg", team_a / "age.csv", "--name", "older")
    answer(store, "push", team_a / "v1.ecg", f"{url}@v1")

    # B takes it, trains, adds the rest, and shares that.
    pulled = answer(store, "pull", f"{url}@v1", team_b / "ptbxl.ecg", "--expect", first.fingerprint)
    assert pulled["beside"] == ["card.yaml", "older.parquet"]
    assert open_store(team_b / "ptbxl.ecg").sidecar("older")["older"].to_pylist() == [1] * 27
    recipe = {**RECIPE, "data": {"store": str(team_b / "ptbxl.ecg")}, "downstream": []}
    (team_b / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert call(train, "run", team_b / "tiny.yaml", "--out", team_b / "run").exit_code == 0
    shutil.copytree(team_b / "ptbxl.ecg", team_b / "v2.ecg")
    answer(store, "ingest", mini, team_b / "v2.ecg", *INGEST, "--append")
    second = open_store(team_b / "v2.ecg")
    pushed = answer(store, "push", team_b / "v2.ecg", f"{url}@v2")
    assert pushed["copied"] > 0

    # A looks at what is new, and lets a patient go.
    found = answer(store, "diff", f"{url}@v1", f"{url}@v2")
    assert (len(found["records_added"]), found["records_removed"], found["records_changed"]) == (26, [], [])
    patient = first.column("patient_key")[np.flatnonzero(first.column("fold") < 7)[0]]
    n_records = int((second.column("patient_key") == patient).sum())
    answer(store, "pull", f"{url}@v2", team_a / "v2.ecg", "--base", team_a / "v1.ecg")
    words = ("withdraw", team_a / "v2.ecg", team_a / "v3.ecg", "--patient", patient, "--push", f"{url}@v3")
    gone = answer(store, *words)
    assert gone["withdrawn_records"] == n_records
    third = gone["fingerprint"]
    there = answer(store, "remote", url)
    assert there["tags"] == {"v1": third, "v2": third, "v3": third}
    states = {one["fingerprint"]: (one["sealed"], one["withdrawn"], one["n_objects"]) for one in there["versions"]}
    assert states[first.fingerprint] == states[second.fingerprint] == (False, True, 0)
    assert states[third][:2] == (True, False)
    refused = call(store, "pull", f"{url}@{first.fingerprint}", tmp_path / "again")
    assert (refused.exit_code, f"@{third}" in refused.stderr) == (1, True)

    # B gets the next version cheaply, and sees what its run has seen.
    last = answer(store, "pull", f"{url}@v3", team_b / "v3.ecg", "--base", team_b / "v2.ecg")
    assert last["bytes_fetched"] < 0.5 * open_store(team_b / "v3.ecg").n_bytes
    assert open_store(team_b / "v3.ecg").verify(deep=True) == []
    told = call(train, "report", team_b / "run", "--out", team_b / "report", "--withdrawn", team_b / "v3.ecg")
    assert told.exit_code == 0, told.output
    n_seen = int((first.column("patient_key") == patient).sum())
    (line,) = [one for one in told.stdout.splitlines() if "has seen what was withdrawn" in one]
    assert f": {n_seen} records of 1 named patients" in line
