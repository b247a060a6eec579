"""Benchmarks: one thin script a subject over :mod:`benchmarks.timing`; what they measured is in ``results/``."""
