"""SHA256SUMS of a folder: the hash of every file in it, manifest and model card included, as `sha256sum -c` reads it.

It shows damage and edits that nobody meant; it is no signature, for whoever changes a file can also write new sums.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from spanvla_ros.contracts import EngineError

NAME = "SHA256SUMS"
LINE = r"([0-9a-f]{64})  ([^\n/]+)\n"
BLOCK = 1 << 20


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def replace(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(folder: Path) -> None:
    """Seal the files of a folder as they are, those of its sub-folders not; they are on the disk before the sums are."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != NAME)
    for path in paths:
        sync(path)
    replace(folder / NAME, "".join(f"{digest(p)}  {p.name}\n" for p in paths).encode())


def read(folder: Path, cure: str) -> dict[str, str]:
    """File name -> hash. cure: what an error asks the user to do.

    Errors: EngineError for a folder that isn't sealed, and for sums that can't be read.
    """
    path = folder / NAME
    if not path.is_file():
        raise EngineError(f"{folder} holds no {NAME}; {cure}")
    text = path.read_bytes().decode("ascii", errors="replace")
    found = re.findall(LINE, text)
    if "".join(f"{value}  {name}\n" for value, name in found) != text or len(dict((n, v) for v, n in found)) != len(found):
        raise EngineError(f"{path} is damaged: it must hold one line `SHA-256  NAME` per file; {cure}")
    return {name: value for value, name in found}


def check(folder: Path, sums: Mapping[str, str], names: Iterable[str], cure: str, known: Mapping[str, str] | None = None) -> None:
    """Hold files against the sums; cure: as `read`; known: hashes of those that were read already.

    Errors: EngineError names the first file that is missing, changed or not in the sums, with both hashes.
    """
    for name in names:
        path = folder / name
        if name not in sums:
            raise EngineError(f"{folder / NAME} has no line for {name}; {cure}")
        if not path.is_file():
            raise EngineError(f"{path} is missing, {NAME} lists it; {cure}")
        found = (known or {}).get(name) or digest(path)
        if found != sums[name]:
            raise EngineError(f"{path} was changed: it has SHA-256 {found}, {NAME} says {sums[name]}; {cure}")
