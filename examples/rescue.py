"""A custom environment: two rescuers on a grid must reach a victim at the same time."""

import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Discrete, EnvSpec, TimeStep


class Config(config.Model):
    """Options with defaults; `+env.options.size=5` sets one."""

    size: config.PositiveInt = 4
    max_steps: config.PositiveInt = 20


def make(cfg: Config) -> base.Env:
    """Returns the environment: static facts and two pure functions."""
    moves = jnp.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])  # stay, up, down, left, right
    spec = EnvSpec(
        name=f"rescue/{cfg.size}x{cfg.size}",
        agent_names=("medic", "carrier"),
        agent_groups=(0, 0),
        actions=Discrete(5),
        obs_shapes=((4,), (4,)),  # position of the agent and of the victim
        obs_shape=(4,),
        state_size=6,
        max_steps=cfg.max_steps,
        metric_names=("win_rate",),
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
    )

    def observe(positions: jax.Array, step: jax.Array, reward: jax.Array) -> TimeStep:
        """`positions` i32[3, 2]: the two rescuers and the victim."""
        scaled = positions / max(1, cfg.size - 1)
        targets = positions[:2, None] + moves[None]  # position after each move of each rescuer
        saved = jnp.all(positions[:2] == positions[2:]) & (step > 0)
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
        positions = jax.random.randint(key, (3, 2), 0, cfg.size)
        state = {"positions": positions, "step": jnp.zeros((), jnp.int32)}
        return state, observe(positions, state["step"], jnp.zeros(()))

    def step(key, state, actions):
        del key  # transitions are deterministic
        positions = state["positions"].at[:2].add(moves[actions])
        saved = jnp.all(positions[:2] == positions[2:])
        reward = jnp.where(saved, 10.0, -0.1).astype(jnp.float32)  # shared by the team
        state = {"positions": positions, "step": state["step"] + 1}
        return state, observe(positions, state["step"], reward)

    return base.team_env(spec, reset, step)
