"""A small environment in every form except the team form, with one fault at a time that shows in
play, and the same environment stepped in Python.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Box, Discrete, EnvSpec

N_PLACES, LIMIT = 5, 4
FORMS = {
    "competing": {
        "zero_sum": True,
        "scored_agents": (0,),
        "best_metrics": (("return/a", "max"), ("length", "min")),
    },
    "continuous": {"actions": Box((2, 1), -1.0, 2.0), "agent_groups": (0, 1)},
    "tabular": {"n_states": N_PLACES},
    "crowd": {"obs_blocks": (("place", 1),)},
}
"""Form -> further fields of its spec."""
TEAM_REWARDS = {"continuous": base.mean_over_agents, "tabular": base.sum_over_agents}


class Config(config.Model):
    """Options."""

    form: Literal["competing", "continuous", "tabular", "crowd"]
    fault: str = "none"


def make(cfg: Config) -> base.Env:
    """Agents push a token around a ring of five places; its place sets their rewards."""
    form, fault = cfg.form, cfg.fault
    names = ("a", "b", "c") if form == "crowd" else ("a", "b")
    fields = {"actions": Discrete(2), "agent_groups": (0,) * len(names), **FORMS[form]}
    spec = EnvSpec(
        name=form,
        agent_names=names,
        obs_shapes=((1,),) * len(names),
        obs_shape=(1,),
        state_size=1,
        max_steps=LIMIT,
        **fields,
    )

    def show(state, reward):
        place = state["place"].astype(jnp.float32)
        index = place + {"an index too large": 1.0, "a fractional index": 0.5}.get(fault, 0.0)
        avail = jnp.asarray(spec.actions.exists)
        if fault == "a masked box":
            avail = avail & (state["step"] != 2)
        timestep = base.first_timestep(jnp.full((len(names), 1), index), place[None], avail)
        timestep = dataclasses.replace(timestep, reward=reward, truncated=state["step"] >= LIMIT)
        if form != "crowd":
            return timestep
        neighbours = ~jnp.eye(3, dtype=bool) | (fault == "its own neighbour")
        alive = jnp.arange(3) < 4 - state["step"]
        return dataclasses.replace(timestep, alive=alive, neighbours=neighbours)

    def reset(key):
        place = jax.random.randint(key, (), 0, N_PLACES)
        state = {"place": place, "step": jnp.zeros((), jnp.int32)}
        return state, show(state, jnp.zeros((len(names),)))

    def step(key, state, actions):
        del key
        pushed = jnp.sum(actions > 0).astype(jnp.int32)
        place = (state["place"] + pushed) % N_PLACES
        reward_a = place.astype(jnp.float32) - 2.0
        reward = jnp.stack([reward_a, -reward_a, 0.0 * reward_a][: len(names)])
        if fault == "rewards of nonzero sum":
            reward = jnp.abs(reward)
        state = {"place": place, "step": state["step"] + 1}
        return state, show(state, reward)

    return base.Env(spec, reset, step, TEAM_REWARDS.get(form))


def stepped_in_python(env: base.Env) -> base.HostEnv:
    """The same environment as a `HostEnv`."""

    def start():
        current = {}

        def to_numpy(result):
            current["state"], timestep = result
            return jax.tree.map(np.asarray, timestep)

        return base.HostEpisodes(
            reset=lambda seed: to_numpy(env.reset(jax.random.key(seed))),
            step=lambda actions: to_numpy(env.step(jax.random.key(0), current["state"], actions)),
            close=current.clear,
        )

    return base.HostEnv(env.spec, start, env.team_reward)
