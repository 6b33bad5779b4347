"""A server that answers huggingface_hub as its hub does, in the few ways that a share asks for; it is not the hub.

One dataset, ``team/ptbxl``, with one branch. A file is kept beside git ("lfs") where ``is_large`` says so of its name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_server import LocalServer, QuietHandler

REPO = "team/ptbxl"


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub(LocalServer):
    """``states`` are the files after each commit; ``uploaded`` what stands beside git, by SHA-256."""

    def __init__(self) -> None:
        self.states: list[dict[str, bytes]] = [{".gitattributes": b"x\n"}]
        self.uploaded: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        #: For a method and a part of a path, the status to answer so many times.
        self.faults: list[list[Any]] = []
        self.token = "hf_test"
        self.lock = threading.Lock()
        super().__init__(_Handler)

    @property
    def head(self) -> str:
        return self.sha(len(self.states) - 1)

    def sha(self, number: int) -> str:
        return hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()

    def at(self, revision: str) -> dict[str, bytes]:
        if revision == "main":
            return self.states[-1]
        return next(its for n, its in enumerate(self.states) if self.sha(n) == revision)

    def is_large(self, path: str) -> bool:
        return "/signal/" in path or path.endswith(".parquet")


class _Handler(QuietHandler):
    server: Hub
    disable_nagle_algorithm = True

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while n := int(self.rfile.readline(), 16):
                body += self.rfile.read(n + 2)[:n]
            self.rfile.readline()
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        hub = self.server
        hub.asked.append((self.command, path))
        with hub.lock:
            for fault in hub.faults:
                method, part, status, left = fault
                if method == self.command and part in path and left > 0:
                    fault[3] -= 1
                    return self._answer(status, {"error": "tried"})
        if path.startswith("/upload/"):
            hub.uploaded[path.removeprefix("/upload/")] = body
            return self._answer(200)
        if self.command in ("POST", "PUT") and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer(401, {"error": "Invalid credentials"})
        if f"/{REPO}/" not in path and f"/{REPO}.git/" not in path:
            return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        with hub.lock:
            return self._in_repo(path.partition(REPO)[2], query, body)

    def _in_repo(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        hub = self.server
        if path == ".git/info/lfs/objects/batch":
            return self._answer(200, self._batch(json.loads(body)))
        _, verb, revision, *names = path.split("/")
        name = "/".join(names)
        if verb == "revision":
            return self._answer(200, {"id": REPO, "sha": hub.head, "private": True, "tags": [], "siblings": []})
        if verb == "tree":
            found = self._tree(hub.at(revision), name, query.get("recursive", ["False"])[0].lower() == "true")
            if not found:
                return self._answer(404, {"error": "no such entry"}, X_Error_Code="EntryNotFound")
            return self._answer(200, found)
        if verb == "paths-info":
            asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            files = hub.at(revision)
            return self._answer(200, [self._file(one, files[one]) for one in asked if one in files])
        if verb == "preupload":
            return self._answer(200, {"files": [self._mode(one) for one in json.loads(body)["files"]]})
        if verb == "commit":
            return self._commit([json.loads(line) for line in body.splitlines()])
        if verb == "resolve":
            return self._file_itself(hub.at(revision).get(name))
        return self._answer(404, {"error": "?"})

    def _file(self, path: str, content: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_name(content)}
        if self.server.is_large(path):
            sha256 = hashlib.sha256(content).hexdigest()
            about["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return about

    def _tree(self, files: dict[str, bytes], folder: str, is_deep: bool) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path, content in files.items():
            if folder and not path.startswith(f"{folder}/"):
                continue
            inner = path[len(folder) + 1 :] if folder else path
            parts = inner.split("/")
            for n in range(1, len(parts) if is_deep else min(2, len(parts))):
                its = "/".join([*([folder] if folder else []), *parts[:n]])
                found[its] = {"type": "directory", "path": its, "oid": git_name(its.encode())}
            if is_deep or len(parts) == 1:
                found[path] = self._file(path, content)
        return list(found.values())

    def _mode(self, about: dict[str, Any]) -> dict[str, Any]:
        is_large = self.server.is_large(about["path"])
        return {"path": about["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for one in asked["objects"]:
            about = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.uploaded:
                about["actions"] = {"upload": {"href": f"{self.server.address}/upload/{one['oid']}"}}
            objects.append(about)
        return {"transfer": "basic", "objects": objects}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != hub.head:
            return self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(hub.states[-1])
        for line in lines[1:]:
            value, kind = line["value"], line["key"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = hub.uploaded[value["oid"]]
            else:
                assert kind == "deletedFile", kind
                del files[value["path"]]
        hub.states.append(files)
        url = f"{hub.address}/datasets/{REPO}/commit/{hub.head}"
        return self._answer(200, {"commitUrl": url, "commitOid": hub.head, "commitMessage": "", "success": True})

    def _file_itself(self, content: bytes | None) -> None:
        if content is None:
            return self._answer(404, b"", X_Error_Code="EntryNotFound")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            return self._answer(200, content)
        begin, end = int(asked[1]), min(int(asked[2]) + 1, len(content))
        if begin >= len(content):
            return self._answer(416)
        return self._answer(206, content[begin:end], Content_Range=f"bytes {begin}-{end - 1}/{len(content)}")

    do_GET = do_POST = do_PUT = do_HEAD = _do
