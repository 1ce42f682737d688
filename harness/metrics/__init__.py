"""One module per metric, each exporting one pure function of feature arrays."""
