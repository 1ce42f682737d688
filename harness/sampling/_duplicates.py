"""Ids that come twice, found in bounded memory whatever the size of the dataset."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["Duplicates"]

SHOWN = 5


class Duplicates:
    """Looks at every id up to `limit` of them, then at every second, fourth, … by digest: twins share a digest, so both are looked at or neither."""

    def __init__(self, limit: int = 2**20) -> None:
        self.count = 0
        self.first: tuple[str, ...] = ()
        self._limit, self._mask = limit, 0
        self._seen: set[int] = set()

    @property
    def checked_share(self) -> float:
        """Share of the ids looked at by now, above 0 to 1."""
        return 1 / (self._mask + 1)

    def add(self, id: str) -> None:
        number = int.from_bytes(blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if number & self._mask:
            return
        if number in self._seen:
            self.count += 1
            self.first = (*self.first, id)[:SHOWN]
            return
        self._seen.add(number)
        if len(self._seen) > self._limit:
            self._mask = 2 * self._mask + 1
            self._seen = {seen for seen in self._seen if not seen & self._mask}
