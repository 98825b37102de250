"""Run directories of untrained policies."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from qmix_jax import config, program
from qmix_jax.cli import composition
from qmix_jax.runs import metadata, parameters

SMALL = ("agent.options.hidden=8", "seeds=2", "compile_cache=false")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pathlib.Path]:
    """`(*overrides) -> run directory` of two members with parameters drawn at random."""

    def make(*overrides: str) -> pathlib.Path:
        cfg = config.load(composition.compose(*SMALL, *overrides))
        algorithm = program.make_algorithm(cfg, program.environment(cfg).spec)
        # Shapes only: compiling `init` takes as long as a test.
        shapes = jax.eval_shape(algorithm.init, jax.eval_shape(jax.random.key, 0))
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: rng.normal(0.0, 0.3, (2, *leaf.shape)).astype(np.float32), shapes
        )
        folder = tmp_path_factory.mktemp("run")
        metadata.write_config(folder / "config.yaml", config.dump(cfg))
        for name in ("best", "final"):
            parameters.save_parameters(folder / f"parameters_{name}.npz", params)
        return folder

    return make
