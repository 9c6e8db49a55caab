"""The review page: a small web server on this machine alone."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.data.annotation import reply
from spanvla_ros.data.annotation.desk import Conflict, Desk

HOST = "127.0.0.1"
_LARGEST = 200_000  # bytes of what a page may send
_PAGE = "review.html"
_ROUTE = re.compile(r"/(sample|motion|picture)/(\d+)(?:/([\w.-]+)/(\d+))?")
_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def server(desk: Desk, by: str, port: int) -> ThreadingHTTPServer:
    """A server for `desk`, whose reviews are those of the person `by`; `serve_forever` runs it. port 0 takes any that is free."""

    class Handler(_Handler):
        pass

    Handler.desk, Handler.by = desk, by
    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ConfigError(f"port {port} can't be used: {error.strerror}; choose another with --port") from None


class _Handler(BaseHTTPRequestHandler):
    desk: Desk
    by: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def _get(self) -> None:
        if self.path == "/":
            page = resources.files("spanvla_ros.data.annotation").joinpath(_PAGE).read_bytes()
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif self.path == "/samples":
            sets = {name: reply.closed(name) for name in ("longitudinal", "lateral", "class")}
            self._json({"by": self.by, "rows": self.desk.rows(), "sets": sets, "most_trace": reply.MOST_TRACE})
        else:
            kind, number, camera, frame = self._parts()
            if kind == "sample":
                self._json(self.desk.show(number))
            elif kind == "picture" and camera:
                self._send(HTTPStatus.OK, self.desk.picture(number, camera, int(frame)), "image/jpeg")
            else:
                raise _Missing

    def _post(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        # a form of another site can't send this type
        if self.headers.get_content_type() != "application/json" or not 0 < length <= _LARGEST:
            self.close_connection = True  # its body is not read
            raise reply.ReplyError(f"expected JSON of at most {_LARGEST} bytes, got {self.headers.get_content_type()} of {length}")
        said = json.loads(self.rfile.read(length))
        if not isinstance(said, dict):
            raise reply.ReplyError("expected a JSON object")
        kind, number, *_ = self._parts()
        if kind == "sample":
            self._json(self.desk.save(number, said, self.by))
        elif kind == "motion":
            self._json(self.desk.motion(number, str(said.get("trace", ""))))
        else:
            raise _Missing

    def _parts(self) -> tuple[str, int, str | None, str | None]:
        found = _ROUTE.fullmatch(self.path)
        if found is None or int(found[2]) >= len(self.desk):
            raise _Missing
        return found[1], int(found[2]), found[3], found[4]

    def _guarded(self, answer: Any) -> None:
        """Only for pages of this server: a name that was bent to this address, or another site's script, gets nothing."""
        port = self.server.server_address[1]
        own = {f"{HOST}:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        try:
            if self.headers.get("Host") not in own or origin is not None and origin.removeprefix("http://") not in own:
                self.close_connection = True
                self._json({"error": "open the address that the command printed"}, HTTPStatus.FORBIDDEN)
                return
            answer()
        except _Missing:
            self._json({"error": f"{self.path} doesn't exist"}, HTTPStatus.NOT_FOUND)
        except Conflict as error:
            self._json({"error": str(error)}, HTTPStatus.CONFLICT)
        except (SpanVLAError, ValueError) as error:
            self._json({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except ConnectionError:
            self.close_connection = True  # the page was closed or went on to another sample

    def _json(self, document: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Requests are not worth a line."""


class _Missing(Exception):
    """There is nothing at this path."""
