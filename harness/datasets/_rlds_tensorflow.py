"""TensorFlow without its noise, and without the GPU that the model wants."""

from __future__ import annotations

import os
from contextlib import suppress
from types import ModuleType

from harness.errors import MissingError

__all__ = ["tensorflow"]


def tensorflow(where: object) -> ModuleType:
    """TensorFlow, imported by the first call (5 to 25 seconds). Raises MissingError.

    GPUs are hidden from TensorFlow alone: CUDA_VISIBLE_DEVICES would hide them from torch too, which may not have started yet.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
    except ImportError as error:
        next = "pip install 'vla-harness[tfrecord]' -c constraints.txt, or convert the dataset to array_record"
        raise MissingError(f"tfrecord files and gs:// paths need the {error.name} package", where=where, next=next) from error
    with suppress(RuntimeError):  # it runs already, on whatever its owner gave it
        tf.config.set_visible_devices([], "GPU")
    return tf
