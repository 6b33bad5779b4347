"""A share in a bucket of S3, or of a server that speaks as S3 does. Only this file knows of obstore.

Credentials, region and endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, …), from the files of the AWS tools (``AWS_PROFILE``), or
from the machine's role.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from ecgstore.errors import StoreError, StoreFormatError, StoreNotFound, StoreUnreachable, need
from ecgstore.sharing import profiles
from ecgstore.sharing.address import Address
from ecgstore.sharing.target import BLOCK, Listed, at, in_words, patiently
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.web import MINUTE_S, SLOWEST_BYTES_PER_S

#: To this size an object is sent in one piece, a larger one in parts.
ONE_PIECE_BYTES = 64 << 20
PART_BYTES, PARTS_AT_ONCE = 16 << 20, 4
#: Bytes of all objects that are on their way at once.
MOST_HELD_BYTES = 256 << 20
#: Objects below one folder; a store of a million records has some hundreds.
MOST_LISTED = 2_000_000
#: How often obstore itself asks again (answers 500 to 599, broken lines), and for how long.
RETRIES, RETRY_S, BACKOFF_S = 4, 60.0, 0.1
#: How long a server may be silent. A piece of 64 MiB has to be sent in that time, too.
CONNECT_S, SILENCE_S, LONGEST_S = 15.0, 300.0, 24 * 3600.0

_ETAG = re.compile(r'"?([0-9a-f]{32}(?:-[0-9]{1,5})?)"?')
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>")
#: Where AWS tells a machine, or a container, of the role that it has.
_NO_ROLE = re.compile(r"//169\.254\.(169\.254|170\.\d+)/")
_NO_BUCKET = ("NoSuchBucket", "InvalidBucketName")
_NO_RIGHT = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


class BucketTarget:
    """A share below a prefix of a bucket."""

    can_list = True

    def __init__(self, address: Address) -> None:
        self._obs: Any = need("obstore", "share")
        self._errors: Any = need("obstore.exceptions", "share")
        self.where = address.place
        self._room = _Room(MOST_HELD_BYTES)
        bucket, prefix = address.bucket_and_prefix
        access = profiles.access()
        keys: dict[str, Any] = {}
        if access.session is not None:
            keys["credential_provider"] = need("obstore.auth.boto3", "share").Boto3CredentialProvider(access.session)
        with self._plainly(""):
            self._store: Any = need("obstore.store", "share").S3Store(
                bucket,
                prefix=prefix or None,
                config=access.config,
                **keys,
                client_options={
                    "allow_http": access.endpoint.startswith("http://"),
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
        in_parts = size > ONE_PIECE_BYTES
        # Of parts one more is being filled than are on their way.
        held = PART_BYTES * (PARTS_AT_ONCE + 1) if in_parts else size

        def put() -> None:
            with self._room.of(held), self._plainly(name):
                if in_parts:  # blocks that raise end it, and the parts are removed
                    how = {"use_multipart": True, "chunk_size": PART_BYTES, "max_concurrency": PARTS_AT_ONCE}
                    self._obs.put(self._store, name, blocks(), **how)
                else:
                    self._obs.put(self._store, name, _in_one_piece(blocks(), size), use_multipart=False)

        def put_parts() -> None:
            try:
                put()
            except FileNotFoundError:  # an answer was lost behind which they became an object, or they were removed
                raise StoreUnreachable(
                    "the server doesn't know the parts that it was sent",
                    where=at(self, name),
                    fix="the same command goes on where it stopped",
                ) from None

        patiently(put_parts)

    def copy(self, old: str, new: str, stated: ObjectHash) -> bool:
        def ask() -> bool:
            with self._plainly(old):
                self._obs.copy(self._store, old, new)
            return True

        try:
            return patiently(ask)
        except FileNotFoundError:
            return False

    def holds(self, name: str, listed: Listed, stated: ObjectHash, blocks: Callable[[], Iterator[bytes]]) -> bool:
        found = _ETAG.fullmatch(listed.etag or "")
        if listed.size != stated.size or found is None:
            return False
        _, in_parts, n_parts = found[1].partition("-")
        if in_parts and int(n_parts) != -(-stated.size // PART_BYTES):
            return False  # somebody else's tool, with parts of another size
        return found[1] == _etag(blocks(), in_parts=bool(in_parts))

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
            if _NO_ROLE.search(text):
                raise StoreError(
                    "there are no credentials, and the machine has no role that gives some",
                    where=where,
                    fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
                ) from None
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


class _Room:
    """Lets so much begin as fits into memory together."""

    def __init__(self, n_bytes: int) -> None:
        self._most, self._free, self._changed = n_bytes, n_bytes, threading.Condition()

    @contextlib.contextmanager
    def of(self, n_bytes: int) -> Iterator[None]:
        """Wait until there is so much room, and hold it meanwhile."""
        n_bytes = min(n_bytes, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= n_bytes)
            self._free -= n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += n_bytes
                self._changed.notify_all()


def _in_one_piece(blocks: Iterator[bytes], size: int) -> bytearray:
    """Joined, in no more memory than they take up."""
    whole, n_bytes = bytearray(size), 0
    for block in blocks:
        whole[n_bytes : n_bytes + len(block)] = block
        n_bytes += len(block)
    return whole


def _etag(blocks: Iterator[bytes], *, in_parts: bool) -> str:
    """What a server calls an object that it was sent so: the MD5, or that of the parts' MD5s and their number."""
    whole = hashlib.md5(usedforsecurity=False)
    part, n_missing, n_parts = hashlib.md5(usedforsecurity=False), PART_BYTES, 0
    for block in blocks:
        if not in_parts:
            whole.update(block)
            continue
        view = memoryview(block)
        while view:
            part.update(view[:n_missing])
            view, n_missing = view[n_missing:], n_missing - len(view[:n_missing])
            if not n_missing:
                whole.update(part.digest())
                part, n_missing, n_parts = hashlib.md5(usedforsecurity=False), PART_BYTES, n_parts + 1
    if not in_parts:
        return whole.hexdigest()
    if n_missing < PART_BYTES:
        whole.update(part.digest())
        n_parts += 1
    return f"{whole.hexdigest()}-{n_parts}"


class _NotInRange(Exception):
    """The object ends before the part that was asked for."""


def _words(error: Exception) -> str:
    text = str(error).partition("\n")[0].partition("<?xml")[0]
    code = next(iter(_CODE.findall(str(error))), "")
    return in_words(Exception(f"{text.strip().rstrip(':')} {code}".strip()))
