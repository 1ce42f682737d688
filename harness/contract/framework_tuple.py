"""Does every point equal the entry of the framework's own `hidden_states` that the contract names?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Recording

__all__ = ["framework_tuple"]


def framework_tuple(adapter: Adapter, recording: Recording) -> Measurement:
    """Largest relative difference over all points with a `hidden_states_index`; the detail names the worst point."""
    indexed = {point: clause.hidden_states_index for point, clause in adapter.clauses.items() if clause.hidden_states_index is not None}
    tuples = {stack: adapter.framework_tuple(recording.batch, stack) for stack in {point.stack for point in indexed}}
    differences = {point: relative_difference(recording.values[point], tuples[point.stack][index]) for point, index in indexed.items()}
    worst = max(differences, key=differences.__getitem__)
    return Measurement(differences[worst], detail=f"worst of {len(differences)} points: {worst} against hidden_states[{indexed[worst]}]")
