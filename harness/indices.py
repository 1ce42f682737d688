"""The grammar of layers and positions: `all`, or a list of numbers and ranges such as `0,6,-1` or `0-5`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import UsageError

__all__ = ["Indices"]

_PART = re.compile(r"(?P<first>-?\d+)(?:-(?P<last>\d+))?")


@dataclass(frozen=True)
class Indices:
    """Numbers as they were asked for, negative ones counted from the end; None is all of them."""

    asked: tuple[int, ...] | None
    what: str = "index"

    @classmethod
    def parse(cls, text: str, what: str = "index") -> Indices:
        """What `text` asks for; a range includes both ends and has no negative ones. Raises UsageError."""
        if text.strip() == "all":
            return cls(None, what)
        asked: list[int] = []
        for part in text.split(","):
            match = _PART.fullmatch(part.strip())
            first, last = (int(match["first"]), match["last"]) if match else (0, None)
            if match is None or (last is not None and not 0 <= first <= int(last)):
                expected = "all, numbers such as 0,6,-1, or ranges such as 0-5 from low to high"
                raise UsageError(f"{part.strip()!r} is no {what}", got=text, expected=expected)
            asked += range(first, int(last) + 1) if last is not None else [first]
        return cls(tuple(asked), what)

    def of(self, count: int) -> tuple[int, ...]:
        """The numbers among `count`, each once and in order. Raises UsageError for one that is not among them."""
        if self.asked is None:
            return tuple(range(count))
        if wrong := [number for number in self.asked if not -count <= number < count]:
            raise UsageError(f"there is no {self.what} {wrong[0]}", got=", ".join(map(str, wrong)), expected=f"{-count} to {count - 1}")
        return tuple(sorted({number % count for number in self.asked}))

    def __str__(self) -> str:
        return "all" if self.asked is None else ",".join(map(str, self.asked))
