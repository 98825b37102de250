"""A small environment in every form but a team's, one fault at a time that shows in play, and the
same stepped in Python.
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
"""Form -> what its spec says besides."""
RULES = {"continuous": base.averaged, "tabular": base.summed}


class Config(config.Model):
    """Options."""

    form: Literal["competing", "continuous", "tabular", "crowd"]
    fault: str = "none"


def make(cfg: Config) -> base.Env:
    """Agents push a token around a ring of five places, and are paid by where it is."""
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
        seen = place + {"a place too many": 1.0, "half a place": 0.5}.get(fault, 0.0)
        avail = jnp.asarray(spec.actions.exists)
        if fault == "a masked box":
            avail = avail & (state["step"] != 2)
        shown = base.first_timestep(jnp.full((len(names), 1), seen), place[None], avail)
        shown = dataclasses.replace(shown, reward=reward, truncated=state["step"] >= LIMIT)
        if form != "crowd":
            return shown
        near = ~jnp.eye(3, dtype=bool) | (fault == "its own neighbour")
        alive = jnp.arange(3) < 4 - state["step"]
        return dataclasses.replace(shown, alive=alive, neighbours=near)

    def reset(key):
        place = jax.random.randint(key, (), 0, N_PLACES)
        state = {"place": place, "step": jnp.zeros((), jnp.int32)}
        return state, show(state, jnp.zeros((len(names),)))

    def step(key, state, actions):
        del key
        pushed = jnp.sum(actions > 0).astype(jnp.int32)
        place = (state["place"] + pushed) % N_PLACES
        paid = place.astype(jnp.float32) - 2.0
        reward = jnp.stack([paid, -paid, 0.0 * paid][: len(names)])
        if fault == "rewards that do not add up":
            reward = jnp.abs(reward)
        state = {"place": place, "step": state["step"] + 1}
        return state, show(state, reward)

    return base.Env(spec, reset, step, RULES.get(form))


def stepped_in_python(env: base.Env) -> base.HostEnv:
    """The same environment as one in Python."""

    def start():
        held = {}

        def shown(result):
            held["state"], timestep = result
            return jax.tree.map(np.asarray, timestep)

        return base.HostEpisodes(
            reset=lambda seed: shown(env.reset(jax.random.key(seed))),
            step=lambda actions: shown(env.step(jax.random.key(0), held["state"], actions)),
            close=held.clear,
        )

    return base.HostEnv(env.spec, start, env.team_reward)
