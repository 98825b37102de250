"""Rank promotion is an error in this folder. Comparison with the oracles; a one-step problem."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import ranks
import samples

from qmix_jax import components
from qmix_jax.agents import base as agents
from qmix_jax.envs import matrix
from qmix_jax.types import Batch, Discrete, EnvSpec, Trajectory

strict = ranks.strict

OPTIONS = {
    "gru": {"hidden": 6},
    "qmix": {"embed_dim": 3, "hypernet_embed": 4},
    "qtran": {"hidden": 5, "layers": 1},
    "wqmix": {"central_hidden": 4, "central_layers": 2},
}
ORACLES = {"qtran": oracles.qtran, "wqmix": oracles.wqmix}


class Problem(NamedTuple):
    """An algorithm on small networks, compiled once; `settings` are the oracle's. For a network
    without a target copy, the oracle uses a constant copy of its parameters."""

    loss_and_gradient: Any
    params: Any
    target_params: Any
    oracle: Any
    settings: dict


def _problem(name, mixer, options):
    agent = samples.component("agents", "gru", OPTIONS["gru"])
    mixing = mixer and samples.component("mixers", mixer, OPTIONS.get(mixer))
    options = {**OPTIONS.get(name, {}), **options}
    algo = samples.algorithm(name, options, agent, mixing)
    cfg = components.find("algorithms", name).Config.model_validate(options)
    return Problem(
        samples.jit(jax.value_and_grad(samples.loss(algo), has_aux=True)),
        samples.params(algo.init, seed=0),
        samples.targets(algo, samples.params(algo.init, seed=1)),
        ORACLES.get(name, oracles.td),
        {"mixer": mixer, **cfg.model_dump()},
    )


@pytest.fixture(scope="session")
def agrees_with_loops():
    """Asserts that loss, metrics, priorities and gradients equal the oracle's."""

    def check(name, mixer, **options):
        problem = _problem(name, mixer, options)
        for form, td_lambda in (("segment", 0.0), ("segment", 0.6), ("episode", 0.6)):
            _check(problem, samples.batch(form), samples.hparams(td_lambda=td_lambda))

    return check


def _check(problem, batch, hparams):
    (loss, aux), gradient = problem.loss_and_gradient(
        problem.params, problem.target_params, batch, hparams
    )
    params = oracles.double(problem.params)
    target_params = {**params, **oracles.double(problem.target_params)}
    fixed = (params, target_params, oracles.double(batch), hparams)

    def oracle(tree):
        return problem.oracle(tree, *fixed, **problem.settings)

    expected = oracle(params)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-4)
    np.testing.assert_allclose(aux.priority, expected["priority"], rtol=1e-4)
    for metric in ("td_error_abs", "q_taken", "target"):
        summed, count = aux.metrics[metric]
        np.testing.assert_allclose(summed, expected[metric], rtol=1e-3, err_msg=metric)
        assert count == expected["count"]
    _check_gradient(lambda tree: oracle(tree)["loss"], params, gradient)


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
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=1e-4 * scale + 1e-7, err_msg=where
        )


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
        actions=Discrete(2),
        obs_shapes=((2,), (2,)),
        obs_shape=(2,),
        state_size=1,
        max_steps=1,
    )
    agent = agents.Agent(
        init=lambda key: {"scale": jnp.ones(())},
        initial_carry=lambda batch_size: (),
        unroll=lambda params, carry, seen: (carry, params["scale"] * seen.obs, seen.obs),
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


class Played(NamedTuple):
    """A matrix game after training: payoff [A, A]; of each seed the payoff of the greedy actions
    [P], the joint values and the unrestricted ones [P, A, A]."""

    payoff: np.ndarray
    greedy: np.ndarray
    joint: np.ndarray
    unrestricted: np.ndarray


@pytest.fixture(scope="session")
def play_matrix_games():
    """Trains 8 seeds on Q3 and HARD with a feed-forward agent: full-batch gradients of the real
    loss over all joint actions, which is uniform exploration with infinite data."""

    def play(name, options, mixer, learning_rate, steps):
        games = [matrix.make(matrix.Config(game=game)) for game in ("Q3", "HARD")]
        spec = games[0].spec
        payoffs = [game.game.decision_points[0].optimal for game in games]
        modules = [components.find(*x) for x in (("agents", "mlp"), ("mixers", "qmix"))]
        agent = modules[0].make(modules[0].Config(hidden=16), spec, spec.actions.width)
        mixing = mixer and modules[1].make(modules[1].Config(**mixer), spec)
        algo = samples.algorithm(name, options, agent, mixing, spec)
        coefficients = components.find("algorithms", name).Coefficients().model_dump()
        hparams = samples.hparams(reward_scale=1.0, td_lambda=0.0, algo=coefficients)
        train = functools.partial(_play, algo, spec, hparams, optax.adam(learning_rate), steps)
        keys = jax.random.split(jax.random.key(0), 8)
        over_games = jax.vmap(jax.vmap(train, in_axes=(0, None)), in_axes=(None, 0))
        played = jax.tree.map(np.asarray, samples.jit(over_games)(keys, jnp.array(payoffs, "f4")))
        return [Played(payoff, *x) for payoff, *x in zip(payoffs, *played, strict=True)]

    return play


def _play(algo, spec, hparams, optimiser, steps, key, payoff):
    """(payoff of the greedy actions, joint values, unrestricted values)."""
    joint = jnp.array(list(np.ndindex(payoff.shape)), jnp.int32)
    entries = (2, len(joint))
    flags, everything = jnp.ones(entries, bool), jnp.ones((*entries, 2, 3), bool)
    obs, state = jnp.ones((*entries, 2, *spec.obs_shape)), jnp.ones((*entries, spec.state_size))
    trajectory = Trajectory(
        obs=obs,
        state=state,
        avail_actions=everything,
        reset=flags,
        actions=joint[None],
        reward=payoff.reshape(1, -1),
        terminated=flags[:1],
        valid=flags[:1],
    )
    weight, index = jnp.ones(len(joint)), jnp.arange(len(joint))
    batch = Batch(trajectory=trajectory, weight=weight, index=index)

    def step(state, _):
        params, moments = state
        gradient, _ = jax.grad(samples.loss(algo), has_aux=True)(params, params, batch, hparams)
        moves, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, moves), moments), None

    params = algo.init(key)
    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), None, length=steps)
    inspected = algo.inspect(params, trajectory)
    best = jnp.argmax(inspected["utilities"][0, 0], axis=-1)
    tables = inspected["q_tot"][0], inspected["q_joint"][0]
    return payoff[best[0], best[1]], *(table.reshape(payoff.shape) for table in tables)
