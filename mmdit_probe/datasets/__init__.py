"""Labeled data sets: the built-in synthetic scenes, and standard benchmarks read as released."""
