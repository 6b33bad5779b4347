"""A share in a dataset repository of the Hugging Face hub. Only this file knows of huggingface_hub.

A repository is a git history, so an object is created once by a commit onto the very state in which it was not there:
whoever commits in between makes the hub refuse it. What a push sends is uploaded at once and committed together, the
manifest after it by a commit of its own. Signing in is as for other tools: ``hf auth login``, or ``HF_TOKEN``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ecgstore.errors import StoreError, StoreNotFound, StoreUnreachable, need
from ecgstore.sharing.address import Address
from ecgstore.sharing.target import BLOCK, Listed, at, in_words, patiently
from ecgstore.storage.manifest import ObjectHash

REPO_TYPE, BRANCH = "dataset", "main"
#: Objects in one commit.
MOST_COMMITTED = 500
#: How often a commit is tried onto a state that somebody else has just changed.
TRIES, WAIT_S = 10, 0.3
#: The name of a git object.
_GIT = re.compile(r"[0-9a-f]{40}")


class HubTarget:
    """A share in a repository, or in a folder of one."""

    can_list = True

    def __init__(self, address: Address) -> None:
        self._hub: Any = need("huggingface_hub", "hf")
        self._errors: Any = need("huggingface_hub.errors", "hf")
        self._utils: Any = need("huggingface_hub.utils", "hf")
        self._utils.disable_progress_bars()  # of each file one; ours is of all together
        self.where = address.place
        self._repo, self._prefix = address.repository_and_prefix
        self._api: Any = self._hub.HfApi()
        self._lock, self._waiting, self._folder = threading.Lock(), dict[str, Any](), ""

    # --- reading ---------------------------------------------------------------------------------------------------

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        if end <= begin:
            return b""

        def read() -> bytes:
            part = bytearray()
            with self._answer(name, {"Range": f"bytes={begin}-{end - 1}"}) as answer:
                if answer.status_code == 416:
                    return b""
                skip = 0 if answer.status_code == 206 else begin  # a server may give it whole
                for block in answer.iter_bytes(64 << 10):
                    part += block
                    if len(part) >= skip + end - begin:
                        break
            return bytes(part[skip : skip + end - begin])

        return patiently(read)

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        n_bytes = 0
        with self._answer(name, {}) as answer:
            for block in answer.iter_bytes(BLOCK):
                yield block
                n_bytes += len(block)
                if n_bytes > size:
                    return

    @contextlib.contextmanager
    def _answer(self, name: str, headers: dict[str, str]) -> Iterator[Any]:
        with self._plainly(name):
            where = {"repo_type": REPO_TYPE, "revision": BRANCH, "endpoint": self._api.endpoint}
            url = self._hub.hf_hub_url(self._repo, self._path(name), **where)
            headers = self._utils.build_hf_headers() | {"Accept-Encoding": "identity"} | headers
            session = self._hub.get_session()
            with session.stream("GET", url, headers=headers, follow_redirects=True) as answer:
                if answer.status_code != 416:
                    self._utils.hf_raise_for_status(answer)
                yield answer

    def listed(self, prefix: str) -> dict[str, Listed]:
        self._commit_waiting()
        found = {}
        for one in self._tree(prefix, recursive=True):
            if hasattr(one, "size"):
                name = one.path[len(self._prefix) + 1 :] if self._prefix else one.path
                found[name] = Listed(one.size, one.lfs.sha256 if one.lfs else one.blob_id, None)
        return found

    def folders(self, prefix: str) -> list[str]:
        tree = self._tree(prefix, recursive=False)
        return sorted(one.path.rpartition("/")[2] for one in tree if not hasattr(one, "size"))

    def _tree(self, prefix: str, *, recursive: bool) -> list[Any]:
        def ask() -> list[Any]:
            with self._plainly(prefix):
                how = {"repo_type": REPO_TYPE, "revision": BRANCH, "recursive": recursive}
                return list(self._api.list_repo_tree(self._repo, self._path(prefix), **how))

        try:
            return patiently(ask)
        except FileNotFoundError:
            return []

    # --- writing ---------------------------------------------------------------------------------------------------

    def try_create(self, name: str, content: bytes) -> bool:
        self._commit_waiting()
        for _ in range(TRIES):
            with self._plainly(name):
                head = self._api.repo_info(self._repo, repo_type=REPO_TYPE, revision=BRANCH).sha
                about = {"repo_type": REPO_TYPE, "revision": head}
                if self._api.get_paths_info(self._repo, [self._path(name)], **about):
                    return False
            if self._committed([self._addition(name, content)], f"Create {name}", onto=head):
                return True
            time.sleep(WAIT_S)
        raise StoreUnreachable(
            "others write into the repository without end", where=at(self, name), fix="try again later"
        )

    def put(self, name: str, content: bytes) -> None:
        self._commit_waiting()
        patiently(lambda: self._committed([self._addition(name, content)], f"Write {name}"))

    def send(self, name: str, blocks: Callable[[], Iterator[bytes]], size: int) -> None:
        """Upload it; it can be read once all that waits was committed."""
        with self._lock:
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix="ecgstore-hub-")
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # of a push that failed
        path = Path(self._folder, hashlib.sha256(name.encode()).hexdigest())

        def upload() -> None:
            with path.open("wb") as file:
                for block in blocks():
                    file.write(block)
            addition = self._addition(name, path)
            with self._plainly(name):
                self._api.preupload_lfs_files(self._repo, [addition], repo_type=REPO_TYPE, revision=BRANCH)
            with self._lock:
                self._waiting[name] = addition

        try:
            patiently(upload)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def copy(self, old: str, new: str, stated: ObjectHash) -> bool:
        return False  # the hub knows large objects by their SHA-256, and isn't sent them again

    def holds(self, name: str, listed: Listed, stated: ObjectHash, blocks: Callable[[], Iterator[bytes]]) -> bool:
        if listed.size != stated.size or not listed.etag:
            return False
        if not _GIT.fullmatch(listed.etag):
            return listed.etag == stated.sha256
        digest = hashlib.sha1(b"blob %d\0" % stated.size, usedforsecurity=False)
        for block in blocks():
            digest.update(block)
        return digest.hexdigest() == listed.etag

    def delete(self, names: Iterable[str]) -> None:
        self._commit_waiting()
        paths = [self._path(name) for name in names]
        for begin in range(0, len(paths), MOST_COMMITTED):

            def remove(some: list[str] = paths[begin : begin + MOST_COMMITTED]) -> None:
                with self._plainly(""):
                    about = {"repo_type": REPO_TYPE, "revision": BRANCH}
                    there = [one.path for one in self._api.get_paths_info(self._repo, some, **about)]
                operations = [self._hub.CommitOperationDelete(path_in_repo=path) for path in there]
                if operations:
                    self._committed(operations, f"Remove {len(there)} objects")

            patiently(remove)

    def clear(self, prefix: str) -> int:
        names = list(self.listed(prefix))
        self.delete(names)
        return len(names)

    def flush(self, prefix: str) -> None:
        self._commit_waiting()

    def _commit_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting, folder, self._folder = self._waiting, {}, self._folder, ""
        try:
            for begin in range(0, len(waiting), MOST_COMMITTED):
                some = list(waiting.values())[begin : begin + MOST_COMMITTED]
                patiently(functools.partial(self._committed, some, f"Write {len(some)} objects"))
        finally:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _committed(self, operations: list[Any], message: str, onto: str | None = None) -> bool:
        """Whether it was; False where ``onto`` is no longer the last state."""
        with self._plainly(""):
            try:
                self._api.create_commit(
                    self._repo,
                    operations,
                    commit_message=message,
                    repo_type=REPO_TYPE,
                    revision=BRANCH,
                    parent_commit=onto,
                )
            except self._errors.HfHubHTTPError as error:
                if onto is not None and _status(error) in (409, 412):
                    return False
                raise
        return True

    def _addition(self, name: str, content: bytes | Path) -> Any:
        given = str(content) if isinstance(content, Path) else content
        return self._hub.CommitOperationAdd(path_in_repo=self._path(name), path_or_fileobj=given)

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextlib.contextmanager
    def _plainly(self, name: str) -> Iterator[None]:
        """Turn what huggingface_hub raises into one line that says what to do, or FileNotFoundError."""
        where = at(self, name).rstrip("/")
        try:
            yield
        except self._errors.EntryNotFoundError:
            raise FileNotFoundError(name) from None
        except (self._errors.RepositoryNotFoundError, self._errors.RevisionNotFoundError) as error:
            if _status(error) == 401:
                self._refuse(where, error)
            raise StoreNotFound(
                "there is no such dataset on the hub, or you may not see it",
                where=self.where,
                fix="have it made (`hf repo create NAME --repo-type dataset`), or sign in: `hf auth login`",
            ) from None
        except self._errors.HfHubHTTPError as error:
            if _status(error) in (401, 403):
                self._refuse(where, error)
            raise self._unreachable(where, error) from None
        except Exception as error:
            # An upload that fails is a RuntimeError with the reason behind it.
            reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
            if _status(reason) in (401, 403):
                self._refuse(where, reason)
            package = type(reason).__module__.partition(".")[0]
            if isinstance(reason, ConnectionError | TimeoutError) or package.startswith(
                ("httpx", "httpcore", "hugging")
            ):
                raise self._unreachable(where, reason) from None
            raise

    def _refuse(self, where: str, error: BaseException) -> None:
        raise StoreError(
            "the hub refuses us",
            where=where,
            got=_status(error),
            fix="`hf auth login` with a token that may write there",
        ) from None

    def _unreachable(self, where: str, error: BaseException) -> StoreUnreachable:
        fix = "check the network and HF_ENDPOINT; the same command goes on where it stopped"
        return StoreUnreachable(
            "the hub can't be reached, or answers no sense", where=where, got=in_words(error), fix=fix
        )


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
