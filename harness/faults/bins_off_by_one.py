"""Action tokens are counted from one bin too far."""

from __future__ import annotations

from collections.abc import Sequence

from harness.faults import Patch

__all__ = ["bins_off_by_one"]


def bins_off_by_one(patch: Patch) -> None:
    from harness.adapters.openvla import OpenVLA
    from harness.adapters.spatialvla import SpatialVLA

    for family in (OpenVLA, SpatialVLA):

        def decode(self: object, token_ids: Sequence[int], *rest: object, original=family.decode) -> object:  # noqa: ANN001
            return original(self, [token - 1 for token in token_ids], *rest)

        patch(family, "decode", decode)
