"""Uniformly random play with infinitely much data: tables instead of agent networks, and every
sequence of joint actions of a small deterministic game in each gradient step of the real loss.
"""

import itertools
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import samples

from qmix_jax import learner as learners
from qmix_jax.agents import base as agents
from qmix_jax.envs import matrix
from qmix_jax.types import Batch, Schedule, Trajectory


def agent(spec, scale=0.1):
    """One utility per agent, place and action; observations are one-hot places, the same for all.

    Args:
      scale: standard deviation of the initial utilities.
    """
    shape = (spec.n_agents, *spec.obs_shape, spec.n_actions_max)

    def unroll(params, carry, obs, prev_actions, reset):
        del prev_actions, reset
        return carry, jnp.einsum("...ns,nsa->...na", obs, params["q"]), obs

    return agents.Agent(
        init=lambda key: {"q": scale * jax.random.normal(key, shape)},
        initial_carry=lambda batch_size: (),
        unroll=unroll,
    )


def every_play(env, steps):
    """Batch of all joint-action sequences of this length from the start."""
    joint = list(itertools.product(*map(range, env.spec.n_actions)))
    plays = np.array(list(itertools.product(joint, repeat=steps)), np.int32)

    def play(actions):
        def step(env_state, joint_action):
            env_state, timestep = env.step(jax.random.key(0), env_state, joint_action)
            return env_state, timestep

        env_state, first = env.reset(jax.random.key(0))
        return first, jax.lax.scan(step, env_state, actions)[1]

    first, later = jax.vmap(play, out_axes=(0, 1))(plays)

    def entries(name):
        return np.concatenate([getattr(first, name)[None], getattr(later, name)])

    reset = np.zeros((steps + 1, len(plays)), bool)
    reset[0] = True
    trajectory = Trajectory(
        obs=entries("obs"),
        state=entries("state"),
        avail_actions=entries("avail_actions"),
        reset=reset,
        actions=plays.swapaxes(0, 1),
        reward=np.asarray(later.reward),
        terminated=np.asarray(later.terminated),
        valid=np.ones((steps, len(plays)), bool),
    )
    n = len(plays)
    return Batch(trajectory=trajectory, weight=np.ones(n, np.float32), index=np.arange(n))


def hparams(learning_rate, steps, **changes):
    """Adam's rate falls to a hundredth in so many steps; one-step targets."""
    numbers = {"start": learning_rate, "end": 0.01 * learning_rate, "steps": steps}
    rate = Schedule(**jax.tree.map(jnp.float32, numbers))
    plain = {"gamma": 0.99, "td_lambda": 0.0, "reward_scale": 1.0, "target_period": 20}
    return samples.hparams(learning_rate=rate, **{**plain, **changes})


def learn(made, batch, hparams, steps, key):
    """Parameters after that many gradient steps."""
    optimiser = learners.make_optimiser("adam", eps=1e-8, beta1=0.9, beta2=0.999, decay=0.99)
    learner = learners.make(made, optimiser)

    def step(state, index):
        return learner.update(state, batch, hparams, index, key)[0], None

    return jax.lax.scan(step, learner.init(key), jnp.arange(steps))[0].params


def tables(values, params, points):
    """Joint values f32[A, A] of each decision point of a game for two agents.

    Args:
      values: a factorisation's `joint_values` or `unrestricted_values`.
    """
    shape = points[0].optimal.shape
    joint = jnp.array(list(np.ndindex(shape)), jnp.int32)
    everything = jnp.ones((2, shape[0]), bool)
    return [
        values(params, jnp.asarray(point.obs), jnp.asarray(point.state), everything, joint).reshape(
            shape
        )
        for point in points
    ]


class Ends(NamedTuple):
    """Of each game, coefficients and seed: payoffs of the greedy actions [G, C, P], and the joint
    values [G, C, P, A, A]; `payoff` is [G, A, A]."""

    greedy: np.ndarray
    tables: np.ndarray
    payoff: np.ndarray

    def reached(self, game, optimum):
        """Seeds [C] that play for the optimum of the game with that index."""
        return (self.greedy[game] == optimum).sum(axis=-1)


def play_one_step_games(make, games, coefficients, learning_rate, steps, seeds=64):
    """Trains on games of equal shape from many starting points at once.

    Args:
      make: `(payoff f32[A, A], EnvSpec, Agent) -> Factorisation`; it may know the payoff already.
      coefficients: values of `hparams.algo`, each tried on every game.
    """
    envs = [matrix.make(matrix.Config(game=game, obs_size=1)) for game in games]
    spec, points = envs[0].spec, envs[0].decision_points
    payoffs = np.stack([env.decision_points[0].optimal for env in envs])
    batch = every_play(envs[0], 1)

    def end(payoff, algo, key):
        made = make(payoff, spec, agent(spec))
        trajectory = replace(batch.trajectory, reward=payoff.reshape(1, -1))
        numbers = hparams(learning_rate, steps, algo=algo)
        params = learn(made, replace(batch, trajectory=trajectory), numbers, steps, key)
        first, second = made.utilities(params, jnp.asarray(points[0].obs)).argmax(axis=-1)
        return payoff[first, second], tables(made.joint_values, params, points)[0]

    for mapped in ((None, None, 0), (None, 0, None), (0, None, None)):
        end = jax.vmap(end, in_axes=mapped)
    stacked = jax.tree.map(lambda *numbers: jnp.array(numbers, jnp.float32), *coefficients)
    keys = jax.random.split(jax.random.key(0), seeds)
    greedy, learned = samples.jit(end)(jnp.asarray(payoffs), stacked, keys)
    return Ends(np.asarray(greedy), np.asarray(learned), payoffs)
