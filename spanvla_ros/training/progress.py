"""How far a training is: its lines, and a bar under them where somebody looks at a terminal and tqdm is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class Progress:
    """say: where lines go; the bar goes to stderr and never into a pipe or a log file."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._bar = say, _bar()

    def at(self, fraction: float, text: str) -> None:
        """Share of the budget that is spent, and a few words beside it."""
        if self._bar is not None:
            self._bar.n = min(100.0, round(100 * fraction, 2))
            self._bar.set_postfix_str(text)

    def line(self, text: str) -> None:
        if self._bar is None:
            self._say(text)
            return
        with self._bar.external_write_mode():
            self._say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar() -> Any:
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=100, unit="%", bar_format="{percentage:5.1f}%|{bar}| {elapsed}<{remaining} {postfix}", leave=False)
