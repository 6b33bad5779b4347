"""Where a share stands, and which of its versions is meant: ``PLACE``, ``PLACE@TAG`` or ``PLACE@FINGERPRINT``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import urlsplit

from ecgstore.errors import ConfigError, without_secrets
from ecgstore.storage.validate import SHA256

#: The tag that is meant where none is named.
DEFAULT_TAG = "main"

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PART = re.compile(r"[A-Za-z0-9._=+-]+")

_KINDS = "a folder, file://, s3://, http://, https:// or hf://"

Kind = Literal["folder", "s3", "http", "hf"]


@dataclass(frozen=True, slots=True)
class Address:
    """A share, and the version in it: a ``fingerprint``, or else what the ``tag`` says.

    ``place`` is a path, or an address without a slash at its end. ``tag`` is None where none was named.
    """

    kind: Kind
    place: str
    tag: str | None = None
    fingerprint: str | None = None

    @property
    def tag_or_default(self) -> str:
        """The tag that is named, or :data:`DEFAULT_TAG`."""
        return self.tag or DEFAULT_TAG

    @property
    def bucket_and_prefix(self) -> tuple[str, str]:
        """Of an address in S3."""
        bucket, _, prefix = self.place.removeprefix("s3://").partition("/")
        return bucket, prefix

    @property
    def repository_and_prefix(self) -> tuple[str, str]:
        """Of an address on the hub: ``owner/name``, and the folder in it."""
        _, owner, name, *folders = self.place.removeprefix("hf://").split("/")
        return f"{owner}/{name}", "/".join(folders)

    def __str__(self) -> str:
        version = self.fingerprint or self.tag
        return f"{self.place}@{version}" if version else self.place


def parse_address(text: str | Path) -> Address:
    """Read an address; raises ConfigError, and never shows a password or a signature that stands in it."""
    text = str(text)
    scheme, mark, rest = text.partition("://")
    if mark and scheme == "file":
        if rest and not rest.startswith("/"):
            _refuse("a file's address has three slashes", text, "file:///folder")
        mark, text = "", rest
    if not mark:
        place, version = _split(text)
        if not place:
            _refuse("an address of a share is empty", text, "a folder, s3://bucket/name, https://host/name")
        return Address("folder", str(Path(place).expanduser()), *_version(version, text))
    if scheme in ("gs", "az", "abfs"):
        _refuse(f"shares in {scheme}:// are not supported yet", text, _KINDS)
    if scheme not in ("s3", "http", "https", "hf"):
        _refuse("no such kind of address for a share", text, _KINDS)
    _refuse_secrets(text)
    host, slash, path = rest.partition("/")
    if path:
        path, version = _split(path)
    else:
        host, version = _split(host)
    parts = [part for part in path.rstrip("/").split("/") if path]
    if any(not _PART.fullmatch(part) or part in (".", "..") for part in parts):
        _refuse("an address of a share has plain names between its slashes", text, "letters, digits and . _ - = +")
    if scheme == "s3" and not _BUCKET.fullmatch(host):
        _refuse("no bucket in the address", text, "s3://bucket/name")
    if scheme == "hf" and (host != "datasets" or len(parts) < 2):
        _refuse("no dataset in the address", text, "hf://datasets/owner/name")
    if scheme != "s3" and not host:
        _refuse("no server in the address", text, "https://host/name")
    place = f"{scheme}://{host}{slash if parts else ''}{'/'.join(parts)}"
    kind: Kind = "s3" if scheme == "s3" else "hf" if scheme == "hf" else "http"
    return Address(kind, place, *_version(version, text))


def is_tag(text: object) -> bool:
    """Whether a tag may be called so; what looks like a fingerprint may not."""
    return isinstance(text, str) and _TAG.fullmatch(text) is not None and not SHA256.fullmatch(text)


def fingerprint_of(text: str) -> str:
    """A whole fingerprint as the user gave it; raises ConfigError."""
    if not SHA256.fullmatch(text):
        raise ConfigError("this is no fingerprint", expected="64 hexadecimal digits, in lower case", got=text[:80])
    return text


def _split(path: str) -> tuple[str, str | None]:
    """The last part may have an @ in it; folders before it may as well."""
    before, mark, version = path.rpartition("@")
    if not mark or "/" in version:
        return path, None
    return before, version


def _version(version: str | None, text: str) -> tuple[str | None, str | None]:
    if version is None:
        return None, None
    if SHA256.fullmatch(version):
        return None, version
    if not is_tag(version):
        _refuse("no such tag can be", text, "@TAG (letters, digits, . _ -; 64 at most) or @FINGERPRINT (64 digits)")
    return version, None


def _refuse_secrets(text: str) -> None:
    try:
        parts = urlsplit(text)
        is_odd = bool(parts.query or parts.fragment or "?" in text or "#" in text)
    except ValueError:
        _refuse("this address can't be read", text, "s3://bucket/name or https://host/name")
    host, is_of_s3 = parts.netloc, parts.scheme == "s3"
    if "@" in host and (not is_of_s3 or ":" in host or parts.path):  # s3://bucket@v1 names a tag
        raise ConfigError(
            "a user or a password stands in the address, where others can read it",
            where=without_secrets(text),
            fix="leave it out; for s3:// set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if is_odd:
        _refuse("the address has a query or a fragment", text, "the plain address of the share")


def _refuse(what: str, text: str, expected: str) -> NoReturn:
    raise ConfigError(what, where=without_secrets(text)[:200] or None, expected=expected)
