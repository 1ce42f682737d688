"""The harness's own tests check array shapes of every metric against its annotations."""

from jaxtyping import install_import_hook

install_import_hook("harness.metrics", "beartype.beartype")
