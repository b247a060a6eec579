"""Slow, readable references that tests compare the package's kernels with."""
