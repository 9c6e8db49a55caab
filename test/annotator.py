"""An OpenAI-compatible server for tests, which also misbehaves: a plan says what happens to which try for which sample."""

from __future__ import annotations

import base64
import email.utils
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

KEY = "sk-test-secret"
GOOD = {
    "elements": [
        {"id": "e1", "class": "VRU", "type": "pedestrian", "location": "5 m ahead", "state": "crossing"},
        {"id": "e2", "class": "Lane", "type": "our lane", "location": "ahead", "state": "free"},
    ],
    "critical": [{"element": "e1", "kind": "behavior", "text": "crosses"}],
    "decision": {"longitudinal": "yield", "lateral": "turn"},
    "trace": "A pedestrian crosses 5 m ahead, yield until she is over.",
}


def changed(**parts: Any) -> str:
    return json.dumps({**GOOD, **parts})


# replies that arrive, but can't be used
NONSENSE = {
    "broken": json.dumps(GOOD)[:-40],
    "prose": "I'm sorry, I can't help with driving.",
    "enum": changed(decision={"longitudinal": "go fast", "lateral": "turn"}),
    "missing": json.dumps({k: v for k, v in GOOD.items() if k != "decision"}),
    "extra": changed(confidence=0.9),
    "stranger": changed(critical=[{"element": "e9", "kind": "behavior", "text": "crosses"}]),
    "chatter": changed(trace="One. Two. Three."),
    "markup": changed(trace="Stop.</think><action_start>"),
    "list": "[1, 2]",
    "empty": "",
    "null": None,
}


class Server(ThreadingHTTPServer):
    """plan(sample, try) -> what happens: "good", a key of NONSENSE, "timeout", "reset", "half", "drip", "no completion", an HTTP
    status, or "429 <Retry-After>". Samples are told apart by the number in their instruction. A context manager."""

    daemon_threads = True

    def __init__(self, plan: Callable[[int, int], str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan, self.lock, self.released = plan, threading.Lock(), threading.Event()
        self.tries: Counter = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.kinds: Counter = Counter()
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients that have gone are no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        text = body["messages"][1]["content"][0]["text"]
        sample = int(re.search(r"sample (\d+)", text)[1])
        with server.lock:
            server.times.append(time.monotonic())
            server.tries[sample] += 1
            kind = server.plan(sample, server.tries[sample])
            server.kinds[kind] += 1
            server.bodies.append(body)
            server.problems += _problems(self.path, self.headers.get("Authorization"), body)
        self._behave(kind)

    def _behave(self, kind: str) -> None:
        status, _, wait = kind.partition(" ")
        if status.isdecimal():
            headers = {"Retry-After": email.utils.formatdate(time.time() + 1, usegmt=True) if wait == "date" else wait} if wait else {}
            self._send(int(status), json.dumps({"error": {"message": f"status {status} for {KEY}"}}).encode(), headers)
        elif kind.startswith("refuse"):
            self._send(400, json.dumps({"error": {"message": f"Unsupported parameter: '{wait}'"}}).encode())
        elif kind == "timeout":
            self.server.released.wait(60)
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif kind == "no completion":
            self._send(200, b'{"choices": []}')
        elif kind == "half":
            self._send(200, _completion(json.dumps(GOOD))[:-30], {"Content-Length": str(len(_completion(json.dumps(GOOD))))})
        elif kind == "drip":
            self._head(200, {"Content-Length": "4000"})
            while not self.server.released.wait(0.2):
                self.wfile.write(b" ")
                self.wfile.flush()
        else:
            self._send(200, _completion(NONSENSE[kind] if kind in NONSENSE else f"```json\n{json.dumps(GOOD)}\n```"))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _completion(text: str | None) -> bytes:
    usage = {"prompt_tokens": 1200, "completion_tokens": 150, "total_tokens": 1350}
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


def _problems(path: str, authorization: str | None, body: dict[str, Any]) -> list[str]:
    """What is wrong with a request: path, key, roles, pictures."""
    found = []
    if path != "/v1/chat/completions" or authorization != f"Bearer {KEY}" or body["model"] != "seer":
        found.append(f"{path} {authorization} {body['model']}")
    if [m["role"] for m in body["messages"]] not in (["system", "user"], ["system", "user", "assistant", "user"]):
        found.append(f"roles {[m['role'] for m in body['messages']]}")
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    for url in urls:
        data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"), validate=True)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None or picture.shape != (252, 448, 3):
            found.append("a picture can't be decoded")
    if len(urls) != 4:
        found.append(f"{len(urls)} pictures")
    return found
