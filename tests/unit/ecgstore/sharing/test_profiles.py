"""Keys, region and server out of the files of the AWS tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from shares import S3, bring, contents, sealed

from ecgstore import ConfigError, StoreError
from ecgstore.sharing import profiles, pull
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_writable

KEYS = "aws_access_key_id = a\naws_secret_access_key = b-secret\n"


class Files:
    """``config`` and ``credentials`` in a folder, and an environment that leads there and says nothing else."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "ENDPOINT_URL"):
            monkeypatch.delenv(f"AWS_{name}", raising=False)

    def write(self, config: str = "", credentials: str = "") -> None:
        (self.folder / "config").write_text(config)
        (self.folder / "credentials").write_text(credentials)

    def environment(self, **values: str) -> None:
        for name, value in values.items():
            self._monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture
def files(at_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    (tmp_path / "aws").mkdir()
    return Files(tmp_path / "aws", monkeypatch)


def test_without_files_nothing_is_said(files: Files) -> None:
    assert profiles.access() == profiles.Access({}, "")


def test_a_profile_has_keys_in_one_file_and_the_rest_in_the_other(files: Files) -> None:
    files.write(
        "[default]\nregion = eu-west-1\n[profile ward]\nregion = eu-central-1\nendpoint_url = http://s\n",
        f"[default]\naws_access_key_id = x\naws_secret_access_key = y\n[ward]\n{KEYS}aws_session_token = t\n",
    )
    assert profiles.access().config == {"region": "eu-west-1", "access_key_id": "x", "secret_access_key": "y"}
    files.environment(PROFILE="ward")
    keys = {"access_key_id": "a", "secret_access_key": "b-secret", "session_token": "t"}
    expected = {"region": "eu-central-1", "endpoint": "http://s"} | keys
    assert profiles.access() == profiles.Access(expected, "http://s")


def test_the_environment_goes_first(files: Files) -> None:
    files.write(f"[default]\nregion = eu-west-1\nendpoint_url = http://s\n{KEYS}")
    files.environment(REGION="us-east-1", ENDPOINT_URL="http://t", ACCESS_KEY_ID="c", SECRET_ACCESS_KEY="d")
    assert profiles.access() == profiles.Access({}, "http://t")


def test_a_server_of_its_own_for_s3(files: Files) -> None:
    files.write(
        "[default]\nservices = ours\nendpoint_url = http://all\n"
        "[services ours]\ndynamodb =\n  endpoint_url = http://other\ns3 =\n  endpoint_url = http://s3-alone\n"
    )
    assert profiles.access().endpoint == "http://s3-alone"
    files.environment(IGNORE_CONFIGURED_ENDPOINT_URLS="true")
    assert profiles.access().endpoint == ""


@pytest.mark.parametrize("name", ["default", "ward"])
def test_a_store_is_shared_with_the_keys_of_a_profile(at_s3: S3, files: Files, name: str, tmp_path: Path) -> None:
    url = f"{at_s3.bucket()}/share"
    section = "default" if name == "default" else f"profile {name}"
    files.write(f"[{section}]\nendpoint_url = {at_s3.address}\nregion = us-east-1\n", f"[{name}]\n{KEYS}")
    if name != "default":
        files.environment(PROFILE=name)
    store = sealed(tmp_path / "v1.ecg")
    bring(store, open_writable(parse_address(url)))
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(store)


def test_a_store_is_shared_with_keys_that_a_program_gives(at_s3: S3, files: Files, tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    url = f"{at_s3.bucket()}/share"
    said = json.dumps({"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"})
    (tmp_path / "said.json").write_text(said)
    program = f"cat {tmp_path / 'said.json'}"
    files.write(f"[profile p]\ncredential_process = {program}\nendpoint_url = {at_s3.address}\nregion = us-east-1\n")
    files.environment(PROFILE="p")
    store = sealed(tmp_path / "v1.ecg")
    bring(store, open_writable(parse_address(url)))
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(store)


def test_a_program_that_fails_is_one_line(files: Files) -> None:
    pytest.importorskip("boto3")
    files.write("[default]\ncredential_process = false\n")
    with pytest.raises(StoreError, match="export-credentials --profile default"):
        profiles.access()


@pytest.mark.parametrize("way", ["role_arn = arn:x\nsource_profile = y", "sso_session = z", "credential_process = f"])
def test_without_boto3_it_is_said_what_to_do(files: Files, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    files.write(f"[default]\n{way}\n")
    with pytest.raises(ConfigError, match="pip install boto3, or set the keys"):
        profiles.access()


def test_a_profile_that_is_not_there_is_refused(files: Files) -> None:
    files.write(f"[default]\n[profile ward]\n[profile icu]\n{KEYS}")
    files.environment(PROFILE="wrd")
    with pytest.raises(ConfigError, match="there is no profile wrd.*default, icu, ward") as caught:
        profiles.access()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[default]\naws_access_key_id = a\n", "has no aws_secret_access_key"),
        (b"[default]\nwhat-secret-is-this\n", "no sense in line 2"),
        (b"b-secret = x\n", "no sense in line 1"),
        (b"[default]\n\xff\xfe-secret\n", "no sense"),
        (b"[default]\n" + b"# \n" * 400_000, "more than 1048576 bytes"),
    ],
)
def test_odd_files_are_refused_and_not_shown(files: Files, content: bytes, said: str) -> None:
    (files.folder / "credentials").write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        profiles.access()
    assert "secret-is" not in str(caught.value)
    assert "b-secret" not in str(caught.value)
