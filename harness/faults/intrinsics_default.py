"""Whatever dataset is named, the camera intrinsics of the first one are taken."""

from __future__ import annotations

from collections.abc import Mapping

from harness.faults import Patch

__all__ = ["intrinsics_default"]


def intrinsics_default(patch: Patch) -> None:
    from harness.adapters import spatialvla

    original = spatialvla.camera_intrinsic

    def default(table: Mapping[str, object], key: str, *rest: object) -> object:
        return original(table, next(iter(table)), *rest)

    patch(spatialvla, "camera_intrinsic", default)
