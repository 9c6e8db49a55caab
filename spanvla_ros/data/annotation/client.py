"""One request to an OpenAI-compatible endpoint (POST <base>/chat/completions), and what may go wrong with it."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spanvla_ros.contracts import ConfigError, DataError, InputError

URL, MODEL, KEY = "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"
_LARGEST = 4_000_000  # bytes of an answer; one of ours has some thousand
_WRONG_SETUP = {401: "the key is refused", 403: "the key may not use this", 404: "no such path or model", 405: "no endpoint for POST"}
_AGAIN = {408, 409, 425, 500, 502, 503, 504, 529}


class Stop(DataError):
    """Going on makes no sense: all other samples would fail in the same way."""


class TransportError(DataError):
    """No answer this time; another try may get one."""


class Busy(TransportError):
    """The endpoint is overloaded; seconds: how long it asks to wait, None where it doesn't say."""

    def __init__(self, message: str, seconds: float | None):
        super().__init__(message)
        self.seconds = seconds


class Refused(InputError):
    """The endpoint doesn't take this request; another try gets the same answer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to ask. The key may be empty; it is neither logged nor stored."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 120.0

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{URL} is '{self.url}'; it must be like https://host/v1")
        if parts.username or parts.password:
            raise ConfigError(f"{URL} holds a user or password; give the key in {KEY}")

    @classmethod
    def from_environment(cls, timeout_s: float) -> Settings:
        missing = [name for name in (URL, MODEL) if not os.environ.get(name)]
        if missing:
            raise ConfigError(f"--backend endpoint needs {' and '.join(missing)} in the environment ({KEY} where a key is needed)")
        return cls(url=os.environ[URL].rstrip("/"), model=os.environ[MODEL], key=os.environ.get(KEY, ""), timeout_s=timeout_s)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What came back."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    seconds: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def complete(settings: Settings, body: Mapping[str, Any]) -> Completion:
    """One try. Raises Busy or TransportError (try again), Refused (this sample), Stop (all samples)."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if settings.key:
        headers["Authorization"] = f"Bearer {settings.key}"
    request = urllib.request.Request(f"{settings.url}/chat/completions", json.dumps(body).encode(), headers, method="POST")
    start = time.monotonic()
    try:
        with _OPENER.open(request, timeout=settings.timeout_s) as response:
            data = _read(response, start + settings.timeout_s)
    except urllib.error.HTTPError as error:
        raise _http(settings, error) from None
    except (OSError, http.client.HTTPException) as error:  # timeouts and resets are OSErrors, also inside a URLError
        reason = getattr(error, "reason", None) or error
        late = isinstance(reason, TimeoutError)
        raise TransportError(f"no answer within {settings.timeout_s:g} s" if late else f"connection lost: {reason or type(error).__name__}") from None
    try:
        document = json.loads(data)
        text, usage = document["choices"][0]["message"]["content"] or "", document.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError(f"content is a {type(text).__name__}")
        asked, replied = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise TransportError(f"the answer is no chat completion: {type(error).__name__} {error}; it begins with {data[:60]!r}") from None
    return Completion(text=text, prompt_tokens=asked, reply_tokens=replied, seconds=time.monotonic() - start)


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole answer by `deadline`, however slowly it drips."""
    parts, size = [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > _LARGEST:
            raise http.client.HTTPException(f"the answer has more than {_LARGEST} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _http(settings: Settings, error: urllib.error.HTTPError) -> Exception:
    """What a status means for the sample and for the run."""
    try:
        said = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        said = ""
    if settings.key:
        said = said.replace(settings.key, "***")
    line = f"HTTP {error.code} {' '.join(said.split())[:200]}".strip()
    if error.code in _WRONG_SETUP:
        return Stop(f"{settings.url}, model {settings.model}: {_WRONG_SETUP[error.code]} ({line})")
    if 300 <= error.code < 400:
        return Stop(f"{settings.url} redirects to {error.headers.get('Location')}; put the final address into {URL}")
    if error.code == 429 or error.headers.get("Retry-After") and error.code in _AGAIN:
        return Busy(line, retry_after(error.headers.get("Retry-After"), time.time()))
    if error.code in _AGAIN or error.code >= 500:
        return TransportError(line)
    return Refused(line)


def retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date (RFC 9110 10.2.3); None for anything else."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now_s)
    except ValueError:
        return None
