"""One module per way to act, each exporting one Policy `(**options)`: it sees observations and answers with actions."""

from harness.policies._base import Policy

__all__ = ["Policy"]
