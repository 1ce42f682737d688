"""One module per dataset format; each exports one Reader `(path, **options)`: episodes in a fixed order."""

from harness.datasets._base import Reader

__all__ = ["Reader"]
