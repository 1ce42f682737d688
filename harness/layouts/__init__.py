"""Parameter names and shapes of checkpoint layouts, and how arrays turn from one into another; numpy only."""
