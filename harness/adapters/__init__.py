"""One module per model family, each exporting one final Adapter; modules starting with `_` are shared by families."""

from harness.adapters._base import Adapter, Anatomy, Norm

__all__ = ["Adapter", "Anatomy", "Norm"]
