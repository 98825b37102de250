"""Runs other projects' QMIX, as they are, for the comparison tables: see `README.md`."""
