"""Runs unmodified QMIX implementations of other projects for comparison tables; see `README.md`."""
