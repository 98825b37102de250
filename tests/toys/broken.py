"""A small environment that satisfies its contract, or violates it in one way at a time."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Box, Discrete, EnvSpec

LIMIT = 6
leaked = []


class Config(config.Model):
    """Options."""

    fault: str = "none"


SPEC_FAULTS = {
    "groups of unequal size": {"agent_groups": (0, 0)},
    "a missing entry": {"obs_shapes": ((2,),)},
    "actions of a third agent": {"actions": Discrete((3, 2, 2))},
    "no actions": {"actions": Discrete((3, 0))},
    "reversed box bounds": {"actions": Box(1, 1.0, -1.0)},
    "duplicate agent names": {"agent_names": ("a", "a")},
    "no limit": {"max_steps": 0},
    "columns past the state": {"agent_state": np.array([[0], [9]], np.int32)},
    "columns of the wrong dtype": {"agent_state": np.array([[0], [1]])},
    "reversed bounds": {"obs_bounds": (1.0, 0.0)},
    "bounds too narrow": {"obs_bounds": (0.0, 0.5)},
    "padding too small": {"obs_shape": (1,)},
    "a reserved metric": {"metric_names": ("return",)},
    "a missing metric": {"metric_names": ("distance", "speed")},
    "a wrong state size": {"state_size": 4},
    "an unknown best metric": {"best_metrics": (("speed", "max"),)},
    "a best metric without a direction": {"best_metrics": (("distance", "most"),)},
    "an unknown scored agent": {"scored_agents": (0, 2)},
    "no scored agents": {"scored_agents": ()},
    "a missing observation block": {"obs_blocks": (("place", 1),)},
    "a duplicate observation block": {"obs_blocks": (("place", 1), ("place", 1))},
    "neighbours of three": {"neighbours": np.ones((3, 3), bool)},
    "states of two numbers": {"n_states": 5},
    "a zero-sum team": {"zero_sum": True},
}


def make(cfg: Config):
    """Two agents walk on a ring; the first has three actions, the second two."""
    fault = cfg.fault
    if fault == "no Env":
        return {"spec": None}
    if fault == "make raises":
        raise KeyError("scenario")
    fields = {
        "name": "broken",
        "agent_names": ("a", "b"),
        "agent_groups": (0, 1),
        "actions": Discrete((3, 2)),
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
    exists = np.array([[True] * 3, [True, True, fault == "an available action that is padding"]])

    def show(state, reward):
        place, step = state["place"], state["step"]
        obs = jnp.stack([place, place[::-1]]).astype(jnp.float32)
        timestep = base.first_timestep(obs, place.astype(jnp.float32), jnp.asarray(exists))
        terminated = (step >= 2) & (place[0] == place[1])
        return dataclasses.replace(
            timestep,
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
        timestep = show(after, place.sum().astype(jnp.float32))
        if fault == "an auto-reset":
            over = timestep.terminated | timestep.truncated
            fresh, first = reset(key)
            after = base.select(over, fresh, after)
            timestep = dataclasses.replace(timestep, obs=jnp.where(over, first.obs, timestep.obs))
        return _after_step(fault, after, timestep)

    if fault == "one reward for two agents":
        return base.Env(spec, reset, step, base.first_agent)
    env = base.team_env(spec, reset, step)
    team_rewards = {
        "a team reward that does not reduce": lambda reward: reward,
        "a team reward that reduces the batch": jnp.sum,
    }
    return env._replace(team_reward=team_rewards.get(fault, env.team_reward))


def _after_reset(fault, state, timestep):
    if fault == "alive as a count":
        timestep = dataclasses.replace(timestep, alive=jnp.asarray(2, jnp.int32))
    if fault == "neighbours as floats":
        timestep = dataclasses.replace(timestep, neighbours=jnp.ones((2, 2)))
    if fault == "a reward at reset":
        timestep = dataclasses.replace(timestep, reward=jnp.ones(()))
    if fault == "a weak type":
        state["step"] = jnp.asarray(0)
    if fault == "a flag that becomes a number":
        state["flag"] = jnp.zeros((), bool)
    return state, timestep


def _after_step(fault, state, timestep):
    def change(**values):
        return state, dataclasses.replace(timestep, **values)

    if fault == "a new field in the state":
        return {**state, "more": state["step"]}, timestep
    if fault == "a flag that becomes a number":
        return {**state, "flag": jnp.ones((), jnp.int32)}, timestep
    if fault == "a reward per agent":
        return change(reward=jnp.zeros((2,)))
    if fault == "alive in step only":
        return change(alive=jnp.ones((2,), bool))
    if fault == "integer observations":
        return change(obs=timestep.obs.astype(jnp.int32))
    if fault == "three results":
        return state, timestep, {}
    if fault == "no action":
        return change(avail_actions=timestep.avail_actions & (state["step"] != 1))
    if fault == "no action at the end":
        return change(
            avail_actions=timestep.avail_actions & ~(timestep.terminated | timestep.truncated)
        )
    if fault == "both ends":
        return change(truncated=state["step"] >= LIMIT, terminated=state["step"] >= LIMIT)
    if fault == "no end":
        return change(truncated=jnp.zeros((), bool))
    if fault == "not a number":
        return change(obs=timestep.obs / timestep.obs[0, 0])
    if fault == "a callback":
        jax.debug.print("step {x}", x=state["step"])
    if fault == "a leak":
        leaked.append(state["step"] + 1)
    if fault == "no rewards":
        return change(reward=jnp.zeros(()))
    return state, timestep
