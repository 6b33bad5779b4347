"""A share in a bucket of S3, or of a server that speaks as S3 does. Only this file knows of obstore.

Credentials, region and endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, …), or from the machine's role.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from ecgstore.errors import StoreError, StoreFormatError, StoreNotFound, StoreUnreachable, need
from ecgstore.sharing.address import Address
from ecgstore.sharing.target import BLOCK, Listed, at, in_words, patiently
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.web import MINUTE_S, SLOWEST_BYTES_PER_S

#: To this size an object is sent in one piece: the etag of several pieces is no MD5.
ONE_PIECE_BYTES = 64 << 20
#: Objects below one folder; a store of a million records has some hundreds.
MOST_LISTED = 2_000_000
#: How often obstore itself asks again (answers 500 to 599, broken lines), and for how long.
RETRIES, RETRY_S, BACKOFF_S = 4, 60.0, 0.1
#: How long a server may be silent. A piece of 64 MiB has to be sent in that time, too.
CONNECT_S, SILENCE_S, LONGEST_S = 15.0, 300.0, 24 * 3600.0

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>")
_NO_BUCKET = ("NoSuchBucket", "InvalidBucketName")
_NO_RIGHT = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


class BucketTarget:
    """A share below a prefix of a bucket."""

    can_list = True

    def __init__(self, address: Address) -> None:
        self._obs: Any = need("obstore", "share")
        self._errors: Any = need("obstore.exceptions", "share")
        self.where = address.place
        bucket, prefix = address.bucket_and_prefix
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        with self._plainly(""):
            self._store: Any = need("obstore.store", "share").S3Store(
                bucket,
                prefix=prefix or None,
                client_options={
                    "allow_http": endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "read_timeout": timedelta(seconds=SILENCE_S),
                    "timeout": timedelta(seconds=LONGEST_S),
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_S),
                    "backoff": {
                        "init_backoff": timedelta(seconds=BACKOFF_S),
                        "max_backoff": timedelta(seconds=5),
                        "base": 2,
                    },
                },
            )

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        def read() -> bytes:
            with self._plainly(name):
                # Streamed, because a server may send more than it was asked for.
                answer = self._obs.get(self._store, name, options={"range": (begin, end)})
                part = bytearray()
                for block in answer.stream(min_chunk_size=64 << 10):
                    part += block
                    if len(part) > end - begin:
                        return bytes(part[: end - begin])
                return bytes(part)

        try:
            return patiently(read)
        except _NotInRange:
            return b""

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        with self._plainly(name):
            minute, n_bytes, so_far = time.monotonic(), 0, 0
            for block in self._obs.get(self._store, name).stream(min_chunk_size=BLOCK):
                yield bytes(block)
                n_bytes += len(block)
                if n_bytes > size:
                    return
                if (now := time.monotonic()) - minute >= MINUTE_S:
                    if n_bytes - so_far < SLOWEST_BYTES_PER_S * MINUTE_S:
                        raise StoreUnreachable("the server sends too slowly", where=at(self, name))
                    minute, so_far = now, n_bytes

    def listed(self, prefix: str) -> dict[str, Listed]:
        def ask() -> dict[str, Listed]:
            found: dict[str, Listed] = {}
            with self._plainly(prefix):
                for some in self._obs.list(self._store, prefix, chunk_size=1000):
                    for one in some:
                        found[one["path"]] = Listed(one["size"], one["e_tag"], one["last_modified"])
                    if len(found) > MOST_LISTED:
                        raise StoreFormatError("too many objects", where=at(self, prefix), expected=f"{MOST_LISTED}")
            return found

        return patiently(ask)

    def folders(self, prefix: str) -> list[str]:
        def ask() -> list[str]:
            with self._plainly(prefix):
                found = self._obs.list_with_delimiter(self._store, prefix)["common_prefixes"]
            return sorted(one.rstrip("/").rpartition("/")[2] for one in found)

        return patiently(ask)

    def try_create(self, name: str, content: bytes) -> bool:
        try:
            with self._plainly(name, creates=True):
                self._obs.put(self._store, name, content, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, name: str, content: bytes) -> None:
        self.send(name, lambda: iter([content]), len(content))

    def send(self, name: str, blocks: Callable[[], Iterator[bytes]], size: int) -> None:
        def put() -> None:
            with self._plainly(name):
                if size <= ONE_PIECE_BYTES:
                    self._obs.put(self._store, name, b"".join(blocks()), use_multipart=False)
                    return
                # Published by the close: one that raises before it leaves nothing that can be read.
                file = self._obs.open_writer(self._store, name, buffer_size=16 << 20)
                for block in blocks():
                    file.write(block)
                file.close()

        patiently(put)

    def copy(self, old: str, new: str, stated: ObjectHash) -> bool:
        def ask() -> bool:
            with self._plainly(old):
                self._obs.copy(self._store, old, new)
            return True

        try:
            return patiently(ask)
        except FileNotFoundError:
            return False

    def holds(self, name: str, listed: Listed, stated: ObjectHash, md5: Callable[[], str]) -> bool:
        found = _MD5.fullmatch(listed.etag or "")
        return listed.size == stated.size and found is not None and found[1] == md5()

    def delete(self, names: Iterable[str]) -> None:
        for name in names:

            def ask(name: str = name) -> None:
                with contextlib.suppress(FileNotFoundError), self._plainly(name):
                    self._obs.delete(self._store, name)

            patiently(ask)

    def clear(self, prefix: str) -> int:
        names = list(self.listed(prefix))
        self.delete(names)
        return len(names)

    def flush(self, prefix: str) -> None:
        """What a server has answered it keeps."""

    @contextlib.contextmanager
    def _plainly(self, name: str, *, creates: bool = False) -> Iterator[None]:
        """Turn errors of obstore into ours: FileNotFoundError and FileExistsError, or a line that says what to do."""
        where = at(self, name).rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            self._refuse_no_bucket(str(error))
            raise FileNotFoundError(name) from None
        except self._errors.BaseError as error:
            text = str(error)
            if creates and isinstance(error, self._errors.AlreadyExistsError | self._errors.PreconditionError):
                raise FileExistsError(name) from None
            self._refuse_no_bucket(text)
            said = _words(error)
            code = next(iter(_CODE.findall(text)), "")
            if "416" in text and "Range" in text:
                raise _NotInRange(name) from None
            refused = (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError)
            if isinstance(error, refused) or code in _NO_RIGHT or "AccessKeyId" in text or " 403 " in text:
                raise StoreError(
                    "the server refuses us, or there are no credentials",
                    where=where,
                    got=code or said,
                    fix="set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) of who has the right",
                ) from None
            raise StoreUnreachable(
                "the bucket can't be reached, or answers no sense",
                where=where,
                got=said,
                fix="check AWS_ENDPOINT_URL, the network and the server; the same command goes on where it stopped",
            ) from None

    def _refuse_no_bucket(self, text: str) -> None:
        if any(code in text for code in _NO_BUCKET):
            raise StoreNotFound(
                "there is no such bucket",
                where=self.where,
                fix="check its name and AWS_ENDPOINT_URL, or have it made by whoever runs the server",
            ) from None


class _NotInRange(Exception):
    """The object ends before the part that was asked for."""


def _words(error: Exception) -> str:
    text = str(error).partition("\n")[0].partition("<?xml")[0]
    code = next(iter(_CODE.findall(str(error))), "")
    return in_words(Exception(f"{text.strip().rstrip(':')} {code}".strip()))
