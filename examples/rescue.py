"""A user-defined environment: two rescuers on a grid must meet at a victim to carry it out.

qmix-jax train experiment=custom env.name=examples.rescue agent=mlp
"""

import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Discrete, EnvSpec, TimeStep


class Config(config.Model):
    """Options with their defaults; `+env.options.size=5` sets one."""

    size: config.PositiveInt = 4
    max_steps: config.PositiveInt = 20


def make(cfg: Config) -> base.Env:
    """Makes the environment: its specification and two pure functions."""
    moves = jnp.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])  # stay, up, down, left, right
    spec = EnvSpec(
        name=f"rescue/{cfg.size}x{cfg.size}",
        agent_names=("medic", "carrier"),
        agent_groups=(0, 0),
        actions=Discrete(5),
        obs_shapes=((4,), (4,)),  # own position, position of the victim
        obs_shape=(4,),
        state_size=6,
        max_steps=cfg.max_steps,
        metric_names=("win_rate",),
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
    )

    def observe(places: jax.Array, step: jax.Array, reward: jax.Array) -> TimeStep:
        """`places` i32[3, 2]: positions of the two rescuers and the victim."""
        scaled = places / max(1, cfg.size - 1)
        targets = places[:2, None] + moves[None]  # position after each move of each rescuer
        saved = jnp.all(places[:2] == places[2:]) & (step > 0)
        return TimeStep(
            obs=jnp.concatenate([scaled[:2], jnp.stack([scaled[2]] * 2)], axis=1),
            state=scaled.reshape(6),
            avail_actions=jnp.all((targets >= 0) & (targets < cfg.size), axis=-1),
            reward=reward,
            terminated=saved,
            truncated=(step >= cfg.max_steps) & ~saved,
            metrics={"win_rate": saved.astype(jnp.float32)},
        )

    def reset(key: jax.Array) -> tuple[dict[str, jax.Array], TimeStep]:
        places = jax.random.randint(key, (3, 2), 0, cfg.size)
        state = {"places": places, "step": jnp.zeros((), jnp.int32)}
        return state, observe(places, state["step"], jnp.zeros(()))

    def step(key, state, actions):
        del key  # only the start is random
        places = state["places"].at[:2].add(moves[actions])
        saved = jnp.all(places[:2] == places[2:])
        reward = jnp.where(saved, 10.0, -0.1).astype(jnp.float32)  # shared by the team
        state = {"places": places, "step": state["step"] + 1}
        return state, observe(places, state["step"], reward)

    return base.team_env(spec, reset, step)
