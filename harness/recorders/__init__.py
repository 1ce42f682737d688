"""One module per dataset format that episodes are written in; each exports one Recorder `(**options)`."""

from harness.recorders._base import Recorder

__all__ = ["Recorder"]
