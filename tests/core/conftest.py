"""Rank promotion is an error in this folder, and every function is tried both ways."""

import jax
import pytest
import ranks

strict = ranks.strict


@pytest.fixture(params=["eager", "jitted"])
def run(request):
    """The function as it is, or compiled."""
    return jax.jit if request.param == "jitted" else lambda function: function
