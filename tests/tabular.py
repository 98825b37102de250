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
    shape = (spec.n_agents, *spec.obs_shape, spec.actions.width)

    def unroll(params, carry, seen):
        return carry, jnp.einsum("...ns,nsa->...na", seen.obs, params["q"]), seen.obs

    return agents.Agent(
        init=lambda key: {"q": scale * jax.random.normal(key, shape)},
        initial_carry=lambda batch_size: (),
        unroll=unroll,
    )


def algorithm(name, options, spec, mixer):
    """An algorithm on tables, learnt by Adam."""
    adam = learners.make_optimiser("adam", eps=1e-8, beta1=0.9, beta2=0.999, decay=0.99)
    return samples.algorithm(name, options, agent(spec), mixer, spec, adam)


def every_play(env, steps):
    """Batch of all joint-action sequences of this length from the start."""
    joint = list(itertools.product(*map(range, env.spec.actions.sizes)))
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
        reward=np.asarray(env.team_reward(later.reward)),
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

    def step(state, index):
        clock = replace(samples.CLOCK, gradient_step=index)
        return made.learner.update(state, batch, hparams, clock, key)[0], None

    first = made.learner.init(made.init(key))
    return jax.lax.scan(step, first, jnp.arange(steps))[0].params


def tables(made, params, points, which="q_tot"):
    """Joint values f32[A, A] of each decision point of a game for two agents."""
    shape = points[0].optimal.shape
    joint = np.array(list(np.ndindex(shape)))
    return [
        samples.at_start(made, params, point.obs, point.state, joint)[which].reshape(shape)
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
      make: `(payoff f32[A, A], EnvSpec) -> Algorithm`; it may know the payoff already.
      coefficients: values of `hparams.algo`, each tried on every game.
    """
    envs = [matrix.make(matrix.Config(game=game, obs_size=1)) for game in games]
    spec, points = envs[0].spec, envs[0].game.decision_points
    payoffs = np.stack([env.game.decision_points[0].optimal for env in envs])
    batch = every_play(envs[0], 1)

    def end(payoff, algo, key):
        made = make(payoff, spec)
        trajectory = replace(batch.trajectory, reward=payoff.reshape(1, -1))
        numbers = hparams(learning_rate, steps, algo=algo)
        params = learn(made, replace(batch, trajectory=trajectory), numbers, steps, key)
        start = samples.at_start(made, params, points[0].obs, points[0].state, np.zeros((1, 2)))
        first, second = start["utilities"][0].argmax(axis=-1)
        return payoff[first, second], tables(made, params, points)[0]

    for mapped in ((None, None, 0), (None, 0, None), (0, None, None)):
        end = jax.vmap(end, in_axes=mapped)
    stacked = jax.tree.map(lambda *numbers: jnp.array(numbers, jnp.float32), *coefficients)
    keys = jax.random.split(jax.random.key(0), seeds)
    greedy, learned = samples.jit(end)(jnp.asarray(payoffs), stacked, keys)
    return Ends(np.asarray(greedy), np.asarray(learned), payoffs)
