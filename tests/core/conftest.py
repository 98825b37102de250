"""Rank promotion is an error in this folder; functions run eagerly and compiled."""

import jax
import pytest
import ranks

strict = ranks.strict


@pytest.fixture(params=["eager", "jitted"])
def run(request):
    """`run(function)` is the function, or its compiled form."""
    return jax.jit if request.param == "jitted" else lambda function: function
