"""One module per simulator, each exporting one Environment `(*, suite, …)`: tasks, steps, pictures on request, success."""

from harness.environments._base import Environment, Goal, Observation, Solid, Task

__all__ = ["Environment", "Goal", "Observation", "Solid", "Task"]
