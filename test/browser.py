"""A headless Chromium and its DevTools protocol (JSON over a websocket), with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars",
)  # fmt: skip
PATIENCE_S = 120.0


def find() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page. A context manager; raises AssertionError where something doesn't come true in time."""

    def __init__(self, width: int = 1440, height: int = 900):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        log = open(Path(self._folder.name) / "log", "w+", encoding="utf-8")
        command = [find(), *FLAGS, f"--user-data-dir={self._folder.name}/profile", f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        port = _until(lambda: re.search(r"DevTools listening on ws://[^:]+:(\d+)/", Path(log.name).read_text(errors="replace")), "DevTools")[1]
        pages = _until(lambda: [p for p in _json(f"http://127.0.0.1:{port}/json/list") if p["type"] == "page"], "a page")
        self._socket = _handshake(int(port), pages[0]["webSocketDebuggerUrl"].split(port, 1)[1])
        self._buffer, self._number = b"", 0
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Result of one command; dialogs that open meanwhile are accepted, errors of the page are kept."""
        self._number += 1
        mine = self._number
        _send(self._socket, json.dumps({"id": mine, "method": method, "params": params}).encode())
        while True:
            message = json.loads(self._receive())
            if message.get("method") == "Page.javascriptDialogOpening":
                self.dialogs.append(message["params"]["message"])
                self._number += 1
                _send(self._socket, json.dumps({"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}).encode())
            elif message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"])[:500])
            elif message.get("id") == mine:
                assert "error" not in message, message["error"]
                return message["result"]

    def open(self, url: str) -> None:
        """Returns when the page is there."""
        self.call("Page.navigate", url=url)
        _until(lambda: self._there(url), url)

    def _there(self, url: str) -> bool:
        try:
            return self.value("document.readyState") == "complete" and self.value("location.href").startswith(url)
        except AssertionError:  # the old page is just going
            return False

    def value(self, expression: str) -> Any:
        """JSON value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        return _until(lambda: self.value(expression), expression)

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of an element."""
        script = f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
        box = self.value(f"{script} const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field as if it was typed."""
        self.value(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code = {"Enter": 13}.get(key, ord(key.upper()[0]))
        for kind in ("keyDown", "keyUp"):
            text = {} if len(key) > 1 or kind == "keyUp" else {"text": key}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _receive(self) -> bytes:
        """One whole message."""
        message = b""
        while True:
            first, second = self._take(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
            data = self._take(length)
            assert first & 0x0F != 8, "the browser closed the connection"
            if first & 0x0F in (0, 1, 2):
                message += data
                if first & 0x80:
                    return message

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            part = self._socket.recv(1 << 16)
            assert part, "the browser is gone"
            self._buffer += part
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found


def _until(probe: Any, what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


def _json(url: str) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as response:
        return json.load(response)


def _handshake(port: int, path: str) -> socket.socket:
    """Upgrade to a websocket (RFC 6455)."""
    link = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    key = base64.b64encode(os.urandom(16)).decode()
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    link.sendall(f"{head}Sec-WebSocket-Key: {key}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += link.recv(1)
    assert b" 101 " in answer.split(b"\r\n")[0], answer
    return link


def _send(link: socket.socket, data: bytes) -> None:
    """One masked text frame."""
    mask = os.urandom(4)
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x81, 0xFE, size) if size < 65536 else struct.pack("!BBQ", 0x81, 0xFF, size)
    link.sendall(head + mask + bytes(byte ^ mask[k % 4] for k, byte in enumerate(data)))
