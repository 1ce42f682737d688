"""Validation and regression harness for features taken from Vision-Language-Action models."""

__version__ = "0.1.0"
