"""The server of the page: this machine only, behind a token, read only but for the reader's notes.

Whatever a browser sends is input. A request needs the token (in the address once, then in a cookie), a name of this
machine as its host, and for a change a header that no other page can send. Answers may load nothing from elsewhere.
"""

from __future__ import annotations

import errno
import hmac
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ecgstore.errors import ConfigError, EcgError
from ecgstore.look.view.question import Question, read_question
from ecgstore.look.view.view import MOST_PAGE_ROWS, MOST_REJECTED, PAGE_ROWS, View

HOST = "127.0.0.1"
#: What the browser may ask this server for: each is a file of the package, and no other is.
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in ("address", "calipers", "draw", "list", "main", "notes", "page", "paper", "record")
    },
}
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
#: A header that only a page of this server can send: another one would have to ask first, and is told no.
OWN_HEADER = "x-ecgstore-view"
_HOSTS = {HOST, "localhost"}
_MOST_BODY, _MOST_QUERY = 32_768, 8_192


class Guard:
    """Lets through only requests to this machine with the right token, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self._app, self._token, self._cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        answer = self._instead(Request(scope))
        await (answer or self._app)(scope, receive, with_headers)

    def _instead(self, request: Request) -> Response | None:
        """What is answered in the place of the page; None where the request may pass."""
        host = request.headers.get("host", "")
        if (host.rpartition(":")[0] or host) not in _HOSTS or len(request.headers.getlist("host")) != 1:
            return _refused("ask for this page by its address 127.0.0.1")
        if len(request.scope["query_string"]) > _MOST_QUERY:
            return PlainTextResponse("the address is too long\n", 414)
        given = request.query_params.get("token")
        if given is not None:
            if not self._is_token(given):
                return _refused("the token in the address is wrong: take the address that `ecgstore view` printed")
            if request.method == "GET" and request.url.path == "/":
                return self._known_from_now_on(request.url)
        elif not self._is_token(request.cookies.get(self._cookie, "")):
            return _refused("there is no token: take the address that `ecgstore view` printed")
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin")
            if request.headers.get(OWN_HEADER) != "1" or (origin is not None and origin != f"http://{host}"):
                return _refused("only the page itself may change notes")
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _known_from_now_on(self, url: URL) -> Response:
        """The same page without the token in its address; the browser keeps it in a cookie that no script reads."""
        rest = url.remove_query_params("token").query
        answer = RedirectResponse(f"/?{rest}" if rest else "/", 303)
        # Lax, as a link in a terminal or a mail leads here too; whatever changes something needs OWN_HEADER.
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", path="/")
        return answer


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", 403)


def make_app(view: View, token: str, port: int) -> ASGIApp:
    """The whole server, as an ASGI application."""

    def question(request: Request) -> Question:
        mine = {"offset", "limit", "id"}
        parameters = [(name, value) for name, value in request.query_params.multi_items() if name not in mine]
        return read_question(parameters, view.store.leads)

    def page(request: Request) -> Any:
        limit = _whole(request, "limit", PAGE_ROWS, 1, MOST_PAGE_ROWS)
        return view.page(question(request), _whole(request, "offset", 0, 0, view.store.n_records), limit)

    def beside(request: Request) -> Any:
        return view.beside(question(request), view.store.row_of(_text(request, "id")))

    def rejected(request: Request) -> Any:
        limit = _whole(request, "limit", PAGE_ROWS, 1, MOST_REJECTED)
        return view.rejected(_whole(request, "offset", 0, 0, view.store.rejected.num_rows), limit)

    def signal(request: Request) -> Response:
        which = _text(request, "which", "processed")
        drawer = {"processed": view.drawer, "raw": view.raw_drawer}.get(which)
        if drawer is None:
            raise ConfigError("there are no such samples", got=which[:80], expected="processed, or raw with --raw")
        row = drawer.store.row_of(_text(request, "id"))
        columns = _whole(request, "columns", 2000, 1, 1 << 20)
        traces = drawer.read(row, _seconds(request, "start"), _seconds(request, "stop"), columns)
        return Response(traces.to_bytes(), media_type="application/octet-stream")

    def beats(request: Request) -> Any:
        return view.beats(_text(request, "id"), _seconds(request, "start"), _seconds(request, "stop"))

    async def note(request: Request) -> Any:
        body = await _body(request)
        tags, comment = body.get("tags", []), body.get("comment", "")
        if not isinstance(tags, list) or not all(isinstance(one, str) for one in [*tags, comment]):
            raise ConfigError("a note is a list of tags and a comment")
        from starlette.concurrency import run_in_threadpool

        return (await run_in_threadpool(view.notes.write, _text(request, "id"), tags, comment))._asdict()

    def notes_csv(request: Request) -> Response:
        # A mark in front tells spreadsheets that it is UTF-8.
        name = "notes.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response("\ufeff" + view.notes.as_csv(), media_type="text/csv; charset=utf-8", headers=headers)

    def index(request: Request) -> Response:
        return Response(_packaged("index.html"), media_type="text/html; charset=utf-8")

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("there is nothing here\n", 404)
        return Response(_packaged(name), media_type=STATIC[name])

    routes = [
        Route("/", index),
        Route("/static/{name}", static),
        Route("/api/about", _answers(lambda request: view.about())),
        Route("/api/records", _answers(page)),
        Route("/api/counts", _answers(lambda request: view.counts(question(request)))),
        Route("/api/beside", _answers(beside)),
        Route("/api/rejected", _answers(rejected)),
        Route("/api/record", _answers(lambda request: view.record(_text(request, "id")))),
        Route("/api/signal", _answers(signal)),
        Route("/api/beats", _answers(beats)),
        Route("/api/note", _answers_later(note), methods=["PUT"]),
        Route("/api/notes.csv", _answers(notes_csv)),
    ]
    return Guard(Starlette(routes=routes), token, f"ecgstore_view_{port}")


def _answers(ask: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """A route that runs in a thread; an error raised on purpose becomes one line in JSON."""

    def route(request: Request) -> Response:
        try:
            said = ask(request)
        except EcgError as error:
            return _as_error(error)
        return said if isinstance(said, Response) else JSONResponse(said)

    return route


def _answers_later(ask: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        try:
            return JSONResponse(await ask(request))
        except EcgError as error:
            return _as_error(error)

    return route


def _as_error(error: EcgError) -> Response:
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, ConfigError) else 500)


def _text(request: Request, name: str, default: str | None = None) -> str:
    value = request.query_params.get(name, default)
    if value is None or len(value) > 1024:
        raise ConfigError(f"the request needs {name}", expected="up to 1,024 letters")
    return value


def _whole(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16 and least <= int(text) <= most):
        raise ConfigError(f"{name} is out of bounds", expected=f"{least} to {most}", got=text[:40])
    return int(text)


def _seconds(request: Request, name: str) -> float:
    try:
        return float(_text(request, name))
    except ValueError:
        raise ConfigError(f"{name} is no number of seconds", got=_text(request, name)[:40]) from None


async def _body(request: Request) -> dict[str, Any]:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _MOST_BODY:
            raise ConfigError("a note is too long", expected=f"{_MOST_BODY} bytes at most")
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ConfigError("a note is an object in JSON")
    return said


def _packaged(name: str) -> bytes:
    return resources.files("ecgstore.look.view").joinpath("static", name).read_bytes()


class Serving:
    """A server that listens already: its ``address``, with the token; :meth:`run` answers until it is stopped."""

    def __init__(self, view: View, port: int = 0) -> None:
        self._socket = _listening(port)
        self.port = int(self._socket.getsockname()[1])
        self.token = secrets.token_urlsafe(24)
        self.address = f"http://{HOST}:{self.port}/?token={self.token}"
        config = uvicorn.Config(
            make_app(view, self.token, self.port),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=100,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Answer until Ctrl-C, or until :meth:`stop` is called from another thread."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._server.should_exit = True


def _listening(port: int) -> socket.socket:
    """A socket on this machine alone; raises ConfigError where the port is taken."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.bind((HOST, port))
        made.listen(128)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError("the port is in use", got=port, fix="take another --port, or leave it out") from None
        raise ConfigError(
            "this machine doesn't let the port be used", got=f"{port}: {error.strerror}", fix="leave out --port"
        ) from None
    return made
