"""Implicit broadcasting between ranks is an error in numeric code: it hides axis mistakes."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def strict():
    """Raises on rank promotion in every test of the folder or module that takes this over."""
    with jax.numpy_rank_promotion("raise"):
        yield
