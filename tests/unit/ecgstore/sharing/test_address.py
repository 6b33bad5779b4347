"""Addresses of shares: what they mean, and what of them is never shown."""

from __future__ import annotations

import pytest

from ecgstore import ConfigError, StoreError
from ecgstore.errors import without_secrets
from ecgstore.sharing.address import Address, parse_address

FINGERPRINT = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/share", Address("folder", "/data/share")),
        ("share@v1", Address("folder", "share", "v1")),
        ("/data/a@b/share", Address("folder", "/data/a@b/share")),
        ("/data/a@b/share@v1.2", Address("folder", "/data/a@b/share", "v1.2")),
        ("file:///data/share@v1", Address("folder", "/data/share", "v1")),
        (f"s3://bucket/a/b@{FINGERPRINT}", Address("s3", "s3://bucket/a/b", None, FINGERPRINT)),
        ("s3://bucket/a/b/@v1", Address("s3", "s3://bucket/a/b", "v1")),
        ("s3://bucket@v1", Address("s3", "s3://bucket", "v1")),
        ("https://host:8080/a@v1", Address("http", "https://host:8080/a", "v1")),
    ],
)
def test_an_address_means_a_share_and_a_version(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert expected.tag_or_default == (expected.tag or "main")


@pytest.mark.parametrize(
    "text",
    [
        *("", "@v1", "share@", "share@-x", "share@a b", f"share@{'a' * 65}", f"share@{'A' * 64}@v 1"),
        *("s3:///x", "s3://b/x", "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/./b", "s3://bucket/a b"),
        *("https://", "http://[x/y", "file://host/x", "hf://a/b", "ftp://a/b", "gs://a/b"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://anna:hunter2@host/x@v1",
        "https://anna:hunter2@host",
        "https://hunter2@host/x",
        "s3://AKIA:hunter2@bucket/x",
        "s3://AKIA:hunter2@bucket",
        "https://host/x?X-Amz-Signature=hunter2",
        "https://host/x?a=1&sig=hunter2@v1",
        "https://host/x#hunter2",
        "https://anna:hunter2@host/x?sig=hunter2",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    shown = str(caught.value)
    assert "hunter2" not in shown.replace("#hunter2", "")
    assert "\n" not in shown


def test_no_error_shows_a_signature() -> None:
    error = StoreError("x", where="https://u:pw@h/a?sig=s1", got="sent to http://h/b?X-Amz-Signature=s2&b=c; why?")
    assert all(secret not in str(error) for secret in ("pw", "s1", "s2", "b=c"))
    assert str(error).endswith("why?")
    assert without_secrets("did you mean s3://bucket@v1?") == "did you mean s3://bucket@v1?"
    assert without_secrets("which one? a@b") == "which one? a@b"
