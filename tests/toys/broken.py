"""A small environment that keeps its contract, and one fault at a time that breaks it."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import EnvSpec

LIMIT = 6
kept = []


class Config(config.Model):
    """Options."""

    fault: str = "none"


SPEC_FAULTS = {
    "groups of unequal size": {"agent_groups": (0, 0), "n_actions": (3, 2)},
    "a missing entry": {"n_actions": (3,)},
    "agents of one name": {"agent_names": ("a", "a")},
    "no limit": {"max_steps": 0},
    "columns past the state": {"agent_state": np.array([[0], [9]], np.int32)},
    "columns of the wrong type": {"agent_state": np.array([[0], [1]])},
    "bounds upside down": {"obs_bounds": (1.0, 0.0)},
    "bounds too narrow": {"obs_bounds": (0.0, 0.5)},
    "padding too small": {"obs_shape": (1,)},
    "a reserved metric": {"metric_names": ("return",)},
    "a missing metric": {"metric_names": ("distance", "speed")},
    "a wrong state size": {"state_size": 4},
}


def make(cfg: Config):
    """Two agents walk on a ring; the third action of the second one does not exist."""
    fault = cfg.fault
    if fault == "no Env":
        return {"spec": None}
    if fault == "make raises":
        raise KeyError("scenario")
    fields = {
        "name": "broken",
        "agent_names": ("a", "b"),
        "agent_groups": (0, 1),
        "n_actions": (3, 2),
        "obs_shapes": ((2,), (2,)),
        "obs_shape": (2,),
        "state_size": 2,
        "max_steps": LIMIT,
        "metric_names": ("distance",),
        "obs_bounds": (0.0, 6.0),
        "state_bounds": (0.0, 6.0),
    }
    fields |= SPEC_FAULTS.get(fault, {})
    if fault == "a random spec":
        fields["max_steps"] = random.randint(6, 10**6)
    spec = EnvSpec(**fields)
    exists = np.array([[True] * 3, [True, True, fault == "an action that does not exist"]])

    def show(state, reward):
        place, step = state["place"], state["step"]
        obs = jnp.stack([place, place[::-1]]).astype(jnp.float32)
        shown = base.first_timestep(obs, place.astype(jnp.float32), jnp.asarray(exists))
        terminated = (step >= 2) & (place[0] == place[1])
        return dataclasses.replace(
            shown,
            reward=reward,
            terminated=terminated,
            truncated=(step >= LIMIT) & ~terminated,
            metrics={"distance": jnp.abs(place[0] - place[1]).astype(jnp.float32)},
        )

    def reset(key):
        state = {"place": jax.random.randint(key, (2,), 0, 5), "step": jnp.zeros((), jnp.int32)}
        return _after_reset(fault, state, show(state, jnp.zeros(())))

    def step(key, state, actions):
        if fault == "a Python if" and actions[0] > 0:
            actions = actions * 0
        place = (state["place"] + actions) % 5
        if fault == "numpy in the step":
            place = np.mod(place, 5)
        if fault == "randomness of Python":
            place = (place + random.randint(0, 10**6)) % 5
        after = {"place": place, "step": state["step"] + 1}
        shown = show(after, place.sum().astype(jnp.float32))
        if fault == "an auto-reset of its own":
            over = shown.terminated | shown.truncated
            fresh, first = reset(key)
            after = base.select(over, fresh, after)
            shown = dataclasses.replace(shown, obs=jnp.where(over, first.obs, shown.obs))
        return _after_step(fault, after, shown)

    return base.Env(spec, reset, step)


def _after_reset(fault, state, shown):
    if fault == "a reward at reset":
        shown = dataclasses.replace(shown, reward=jnp.ones(()))
    if fault == "a weak type":
        state["step"] = jnp.asarray(0)
    if fault == "a flag that becomes a number":
        state["flag"] = jnp.zeros((), bool)
    return state, shown


def _after_step(fault, state, shown):
    def change(**values):
        return state, dataclasses.replace(shown, **values)

    if fault == "a new field in the state":
        return {**state, "more": state["step"]}, shown
    if fault == "a flag that becomes a number":
        return {**state, "flag": jnp.ones((), jnp.int32)}, shown
    if fault == "a reward per agent":
        return change(reward=jnp.zeros((2,)))
    if fault == "whole numbers as observations":
        return change(obs=shown.obs.astype(jnp.int32))
    if fault == "three results":
        return state, shown, {}
    if fault == "no action":
        return change(avail_actions=shown.avail_actions & (state["step"] != 1))
    if fault == "no action at the end":
        return change(avail_actions=shown.avail_actions & ~(shown.terminated | shown.truncated))
    if fault == "both ends":
        return change(truncated=state["step"] >= LIMIT, terminated=state["step"] >= LIMIT)
    if fault == "no end":
        return change(truncated=jnp.zeros((), bool))
    if fault == "not a number":
        return change(obs=shown.obs / shown.obs[0, 0])
    if fault == "a callback":
        jax.debug.print("step {x}", x=state["step"])
    if fault == "a leak":
        kept.append(state["step"] + 1)
    if fault == "no rewards":
        return change(reward=jnp.zeros(()))
    return state, shown
