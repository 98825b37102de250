"""Members that are batched on a device, compared with sequential members."""

import numpy as np
import pytest
from toys import members

WINDOW = {"collector": "window", "window": 3, "burn_in": 2}


@pytest.mark.slow
def test_vmap_and_map_agree_to_float32_rounding():
    batched, in_turn = (
        members.train(
            members.load(seeds=3, trainer=WINDOW, population={"batching": batching}), calls=(9,)
        )
        for batching in ("vmap", "map")
    )
    for x, y in zip(
        members.leaves(batched.parameters), members.leaves(in_turn.parameters), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)
