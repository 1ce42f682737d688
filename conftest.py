"""Loads the harness's plug-in and this repository's fixtures for `checks/`."""

pytest_plugins = ["harness.plugin", "fixtures.models", "fixtures.stores", "fixtures.measurements", "fixtures.comparisons"]
