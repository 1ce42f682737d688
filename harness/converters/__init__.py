"""Converters: weights published in another container, rewritten as a directory that transformers loads."""
