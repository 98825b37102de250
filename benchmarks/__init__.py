"""Benchmarks of this package: run `python -m benchmarks --help`."""
