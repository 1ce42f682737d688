"""What every family must keep: one module per clause, each exporting one measurement of a loaded adapter."""
