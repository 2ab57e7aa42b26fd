"""The HTTP server of the demo page, for the machine that it runs on and nobody else.

It listens on 127.0.0.1 only. Any page that is open in a browser can send requests there, so a request must name this
server in its Host header (a foreign name that resolves to 127.0.0.1 does not), and where it has an Origin that must be
this server too. It serves one page and two answers, never a file by name; uploads stay in memory.
"""

import json
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from dyhead_jax import command

HOST = "127.0.0.1"
MAX_UPLOAD = 20_000_000  # bytes
_POLICY = (
    "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Answering(Protocol):
    """See `answers.Answers`."""

    def about(self) -> dict[str, Any]: ...
    def detect(self, encoded: bytes) -> dict[str, Any]: ...
    def taps(
        self, encoded: bytes, point: tuple[float, float], level: int | None, box: list[float] | None
    ) -> dict[str, Any]: ...


class Refused(Exception):
    """A request that gets an error status, with a line that says why."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves the page for `answers` on 127.0.0.1; port 0 takes a free one. Raises OSError if the port is taken."""

    daemon_threads = True

    def __init__(self, answers: Answering, port: int):
        super().__init__((HOST, port), _Handler)
        self.answers = answers
        # "<" could end the script element
        about = json.dumps(answers.about()).replace("<", "\\u003c")
        page = resources.files("dyhead_jax.demo").joinpath("page.html").read_text(encoding="utf-8")
        self.page = page.replace("@MODEL@", about).replace("@MAX_UPLOAD@", str(MAX_UPLOAD)).encode()
        names = (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")
        self.hosts = {*names, *((HOST, "localhost") if self.server_port == 80 else ())}
        self.origins = {f"http://{host}" for host in self.hosts}

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a browser that went away, or was too slow, is no error
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30  # seconds without a byte
    server_version, sys_version = "dyhead_jax", ""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> tuple[str, bytes]:
        if self.path != "/":
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        return "text/html; charset=utf-8", self.server.page

    def _post(self) -> tuple[str, bytes]:
        body = self._body()
        url = urlsplit(self.path)
        if url.path == "/detect":
            result = self.server.answers.detect(body)
        elif url.path == "/taps":
            result = self.server.answers.taps(body, *_point(url.query))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        return "application/json", json.dumps(result).encode()

    def _answer(self, make: Callable[[], tuple[str, bytes]]) -> None:
        status = HTTPStatus.OK
        try:
            self._check_sender()
            kind, body = make()
        except Refused as error:
            status, kind, body = error.status, "application/json", _error(str(error))
        except TimeoutError:
            raise
        except (ValueError, OSError) as error:  # of this package: the picture is broken, the point is beside it
            status, kind, body = HTTPStatus.BAD_REQUEST, "application/json", _error(command.one_line(error))
        except Exception as error:
            self.server.handle_error(self.request, self.client_address)  # prints the traceback
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "application/json"
            body = _error(f"{type(error).__name__}; the terminal of the server says more")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def _check_sender(self) -> None:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, f"this server answers {self.server.address} only")
        if origin is not None and origin not in self.server.origins:
            raise Refused(HTTPStatus.FORBIDDEN, "this server answers its own page only")

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the upload must say its length")
        length = int(text)
        if length > MAX_UPLOAD:
            if length <= 4 * MAX_UPLOAD:  # read it, so that the browser hears the answer
                while length > 0 and (part := self.rfile.read(min(length, 1 << 16))):
                    length -= len(part)
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the picture is larger than {MAX_UPLOAD // 1_000_000} MB"
            )
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the upload ended after {len(body)} of {length} bytes")
        return body

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a line for each request would hide the errors."""


def _point(query: str) -> tuple[tuple[float, float], int | None, list[float] | None]:
    """point, level and box of a query such as x=1&y=2&level=0&box=1,2,3,4; the last two may be absent."""
    values = {name: value[-1] for name, value in parse_qs(query).items()}
    try:
        point = float(values["x"]), float(values["y"])
        level = int(values["level"]) if "level" in values else None
        box = [float(number) for number in values["box"].split(",")] if "box" in values else None
        if box is not None and len(box) != 4:
            raise ValueError
    except (KeyError, ValueError):
        raise Refused(HTTPStatus.BAD_REQUEST, "give x and y, and if you like level, and box as x1,y1,x2,y2") from None
    return point, level, box


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()
