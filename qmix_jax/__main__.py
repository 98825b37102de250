"""`python -m qmix_jax`: the same as the `qmix-jax` command."""

import sys

from qmix_jax.cli import main

if __name__ == "__main__":
    sys.exit(main.main())
