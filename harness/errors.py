"""The exception tree: every error says what, where, got, expected and the next command.

HarnessError
├── UsageError            the caller asked for something that does not exist or does not fit
│   └── UnknownNameError  a name that is not registered; carries the nearest valid one
├── MissingError          something that can be provided: a package, a checkpoint, a device
├── DamagedError          a file that is not what it says it is: truncated, altered, malformed
└── ContractError         a model or an adapter that breaks what it declares
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ContractError",
    "DamagedError",
    "HarnessError",
    "MissingError",
    "UnknownNameError",
    "UsageError",
]


class HarnessError(Exception):
    """Base of every error raised on purpose; `str()` is the message a tired person reads."""

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        next: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.next = what, where, got, expected, next
        rows = (("where", where), ("got", got), ("expected", expected), ("next", next))
        lines = [what, *(f"  {label:<8} {value}" for label, value in rows if value is not None)]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders (xdist, worker pools) although their arguments are keywords."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[HarnessError], args: tuple[object, ...], state: dict[str, object]) -> HarnessError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(HarnessError):
    """The request itself is wrong: a bad option, shape or combination."""


class UnknownNameError(UsageError):
    """`name` is not one of `known`; the message suggests the nearest valid one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: object = None, next: str | None = None) -> None:
        known = sorted(known)
        near = get_close_matches(name, known, n=len(known) or 1, cutoff=0.0)
        self.nearest = near[0] if near else None
        listed = ", ".join(near[:12]) + (f" … ({len(known)} in all)" if len(near) > 12 else "")
        super().__init__(
            f"there is no {kind} named {name!r}" + (f"; the nearest is {self.nearest!r}" if self.nearest else ""),
            where=where,
            got=name,
            expected=listed or f"a {kind} (none is registered)",
            next=next,
        )


class MissingError(HarnessError):
    """A package, checkpoint or device that is not here; `next` is the command that provides it."""


class DamagedError(HarnessError):
    """A file whose content contradicts its own description; nothing of it was used."""


class ContractError(HarnessError):
    """A loaded model does not do what its adapter or card declares."""
