"""Team environments, scores, and descriptions of joint actions."""

import dataclasses
import inspect
import re
import textwrap
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import forms

import qmix_jax
from qmix_jax.envs import base
from qmix_jax.types import Discrete, EnvSpec


def frame(actions):
    return base.Frame(None, None, actions, 1, 7.0, 7.0, ("a", "b"))


def test_joint_actions_are_described():
    assert base.describe_actions(frame(None)) == "start"
    assert base.describe_actions(frame(np.array([1, 0], np.int32))) == "a 1, b 0: reward 7"
    continuous = np.array([[0.123456, -1.0], [2.0, 0.0]], np.float32)
    assert base.describe_actions(frame(continuous)) == "a (0.123, -1), b (2, 0): reward 7"


def env_with_reward(reward):
    """A `team_env` whose step returns this reward."""
    env = forms.make(forms.Config(form="tabular"))

    def step(key, env_state, actions):
        env_state, timestep = env.step(key, env_state, actions)
        return env_state, replace(timestep, reward=reward)

    return base.team_env(env.spec, env.reset, step)


def test_every_agent_receives_the_team_reward():
    env = env_with_reward(jnp.float32(3.0))
    state, first = env.reset(jax.random.key(0))
    _, timestep = env.step(jax.random.key(1), state, jnp.array([0, 1]))
    np.testing.assert_array_equal([first.reward, timestep.reward], [[0, 0], [3, 3]])
    assert env.team_reward(timestep.reward) == base.score(env, timestep.reward) == 3


def test_a_reward_per_agent_is_refused():
    env = env_with_reward(jnp.ones((2,)))
    state, _ = env.reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"one reward for the team, got shape \(2,\); sum it"):
        env.step(jax.random.key(1), state, jnp.array([0, 1]))


def test_scores_use_the_team_reward_or_the_scored_agents():
    reward = np.array([[1.0, 3.0], [2.0, 8.0]], np.float32)
    competing, summed = (forms.make(forms.Config(form=name)) for name in ("competing", "tabular"))
    np.testing.assert_array_equal(base.score(competing, reward), [1, 2])
    np.testing.assert_array_equal(base.score(summed, reward), [4, 10])
    everyone = competing._replace(spec=replace(competing.spec, scored_agents=None))
    np.testing.assert_array_equal(base.score(everyone, reward), [2, 5])


def test_the_example_in_the_docstring_satisfies_the_contract():
    text = inspect.getdoc(base.team_env) or ""
    code = textwrap.dedent(
        re.search(r"    def make.*?team_env\(spec, reset, step\)\n", text, re.DOTALL)[0]
    )
    names = {
        "base": base,
        "dataclasses": dataclasses,
        "jnp": jnp,
        "Discrete": Discrete,
        "EnvSpec": EnvSpec,
    }
    exec(code, names)
    result = qmix_jax.check_env(names["make"](None), episodes=2)
    assert result.passed, result.failures()
