"""Rank promotion is an error in this folder; comparison with the loops; a world of one step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import ranks
import samples

from qmix_jax.agents import base as agents
from qmix_jax.types import Batch, EnvSpec, Trajectory

strict = ranks.strict

OPTIONS = {
    "gru": {"hidden": 6},
    "qmix": {"embed_dim": 3, "hypernet_embed": 4},
}


class Problem(NamedTuple):
    """A factorisation on small networks, compiled once; `settings` are the oracle's."""

    loss_and_gradient: Any
    params: Any
    target_params: Any
    settings: dict


def _problem(name, mixer, double_q, loss):
    agent = samples.component("agents", "gru", OPTIONS["gru"])
    mixing = mixer and samples.component("mixers", mixer, OPTIONS.get(mixer))
    options = {"double_q": double_q, "loss": loss}
    factorisation = samples.component("factorisations", name, options, agent, mixing)
    return Problem(
        jax.jit(jax.value_and_grad(factorisation.loss, has_aux=True)),
        samples.params(factorisation.init, seed=0),
        samples.params(factorisation.init, seed=1),
        {"mixer": mixer, **options},
    )


@pytest.fixture(scope="session")
def agrees_with_loops():
    """Asserts that loss, metrics, priorities and gradients are those of `oracles.td`."""

    def check(name, mixer, double_q, loss):
        problem = _problem(name, mixer, double_q, loss)
        for form, td_lambda in (("segment", 0.0), ("segment", 0.6), ("episode", 0.6)):
            _check(problem, samples.batch(form), samples.hparams(td_lambda=td_lambda))

    return check


def _check(problem, batch, hparams):
    (loss, extras), gradient = problem.loss_and_gradient(
        problem.params, problem.target_params, batch, hparams, jax.random.key(2)
    )
    fixed = (oracles.double(problem.target_params), oracles.double(batch), hparams)
    params = oracles.double(problem.params)
    expected = oracles.td(params, *fixed, **problem.settings)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-4)
    np.testing.assert_allclose(extras.priority, expected["priority"], rtol=1e-4)
    for metric in ("td_error_abs", "q_taken", "target"):
        summed, count = extras.metrics[metric]
        np.testing.assert_allclose(summed, expected[metric], rtol=1e-3, err_msg=metric)
        assert count == expected["count"]
    _check_gradient(
        lambda tree: oracles.td(tree, *fixed, **problem.settings)["loss"], params, gradient
    )


def _check_gradient(function, params, gradient):
    """Along one random direction per leaf, so that no leaf hides behind a larger one."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(3)
    paths = jax.tree_util.tree_leaves_with_path(gradient)
    for index, (path, leaf) in enumerate(paths):
        along = [np.zeros_like(other) for other in leaves]
        along[index] = rng.standard_normal(leaf.shape)
        direction = treedef.unflatten(along)
        expected = oracles.directional_derivative(function, params, direction)
        actual = np.sum(np.asarray(leaf, np.float64) * along[index])
        scale = np.linalg.norm(leaf) * np.linalg.norm(along[index])
        assert scale > 0.0, jax.tree_util.keystr(path)
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * scale, err_msg=where)


class OneStep(NamedTuple):
    """One step of two agents with two actions: `batch(terminated)`, and an agent without a network
    whose utilities are the observation times the parameter `scale`."""

    spec: EnvSpec
    agent: agents.Agent
    batch: Any


@pytest.fixture(scope="session")
def one_step():
    """Taken utilities 1 and 2; then 4 (unavailable) or 1, and -3 or -2; reward 0.5."""
    spec = EnvSpec(
        name="one step",
        agent_names=("a", "b"),
        agent_groups=(0, 0),
        n_actions=(2, 2),
        obs_shapes=((2,), (2,)),
        obs_shape=(2,),
        state_size=1,
        max_steps=1,
    )
    agent = agents.Agent(
        init=lambda key: {"scale": jnp.ones(())},
        initial_carry=lambda batch_size: (),
        unroll=lambda params, carry, obs, prev_actions, reset: (carry, params["scale"] * obs, obs),
    )

    def batch(terminated=False):
        trajectory = Trajectory(
            obs=jnp.array([[[[1.0, 9.0], [2.0, 9.0]]], [[[4.0, 1.0], [-3.0, -2.0]]]]),
            state=jnp.zeros((2, 1, 1)),
            avail_actions=jnp.array([[[[True, False]] * 2], [[[False, True], [True, True]]]]),
            reset=jnp.array([[True], [False]]),
            actions=jnp.zeros((1, 1, 2), jnp.int32),
            reward=jnp.array([[0.5]]),
            terminated=jnp.array([[terminated]]),
            valid=jnp.ones((1, 1), bool),
        )
        return Batch(trajectory=trajectory, weight=jnp.ones(1), index=jnp.zeros(1, jnp.int32))

    return OneStep(spec, agent, batch)
