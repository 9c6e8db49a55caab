"""Vision features of frame pairs that were encoded before: a picture is looked at once, however many plans it takes part in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# at 10 plans per second pairs come back after 1 s: 10 entries lie between. A pair of three 224 x 448 cameras takes 7 MB
CAPACITY = 24
SAMPLED = 512


class PairCache:
    """One entry is one frame pair of all cameras, the batch that the vision graph takes.

    Entries are found by content: a few sampled values find one, and then every value is compared. So features of another
    picture can't be taken, whatever stamps, clocks or buffers do; and each pair stands in the batch at the same place
    whenever it is encoded, so features that come back are those that would be computed, bit for bit.

    enabled: False encodes every pair every time, for measurements; encoded: pairs that the network has seen so far.
    """

    def __init__(self, cameras: int, pairs: int):
        self.enabled = True
        self.encoded = 0
        self._cameras, self._pairs = cameras, pairs
        self._entries: dict[bytes, tuple[np.ndarray, Any]] = {}

    def features(self, patches: np.ndarray, encode: Callable[[np.ndarray], Any]) -> list[Any]:
        """Features of each frame pair, oldest first, from patches (G, N, 1176) in camera-major order.

        encode: patches (cameras, N, 1176) of one pair -> its features, in memory of their own.
        """
        by_pair = patches.reshape(self._cameras, self._pairs, *patches.shape[1:])
        return [self._one(by_pair[:, pair], encode) for pair in range(self._pairs)]

    def _one(self, patches: np.ndarray, encode: Callable[[np.ndarray], Any]) -> Any:
        whole = np.ascontiguousarray(patches)
        if self._pairs == 1 or not self.enabled:  # a single pair ends at t0: it can't come back
            self.encoded += 1
            return encode(whole)
        sample = whole.ravel()[:: max(1, whole.size // SAMPLED)].tobytes()
        kept = self._entries.pop(sample, None)
        if kept is None or not np.array_equal(kept[0], whole):
            self.encoded += 1
            # a copy: the caller may use its array again
            kept = whole.copy() if np.may_share_memory(whole, patches) else whole, encode(whole)
        self._entries[sample] = kept
        while len(self._entries) > CAPACITY:
            del self._entries[next(iter(self._entries))]
        return kept[1]
