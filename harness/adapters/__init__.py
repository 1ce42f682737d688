"""One module per model family, each exporting one final Adapter; modules starting with `_` are shared by families."""
