"""Episodes of random length with observations, rewards and ends that follow from the step count."""

import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep


class Config(config.Model):
    """Options."""

    limit: config.PositiveInt = 5
    """Time limit in steps."""
    longest: config.PositiveInt = 7
    """Episodes not truncated before terminate after 1..longest steps, drawn at random."""


def make(cfg: Config) -> base.Env:
    """obs = (episode id, step) for both agents; the reward of step t is t + 1; 3 actions, of which
    the one with index (step % 3) is not available.
    """
    spec = EnvSpec(
        name="counting",
        agent_names=("a", "b"),
        agent_groups=(0, 0),
        actions=Discrete(3),
        obs_shapes=((2,), (2,)),
        obs_shape=(2,),
        state_size=2,
        max_steps=cfg.limit,
        metric_names=("last_step",),
    )

    def show(state: dict[str, Array], reward: Array) -> TimeStep:
        step = state["step"]
        seen = jnp.stack([state["id"], step.astype(jnp.float32)])
        terminated = (step > 0) & (step >= state["length"])
        return TimeStep(
            obs=jnp.stack([seen, seen]),
            state=seen,
            avail_actions=jnp.stack([jnp.arange(3) != step % 3] * 2),
            reward=reward,
            terminated=terminated,
            truncated=(step >= cfg.limit) & ~terminated,
            metrics={"last_step": step.astype(jnp.float32)},
        )

    def reset(key: Array) -> tuple[dict[str, Array], TimeStep]:
        key_length, key_id = jax.random.split(key)
        state = {
            "id": jax.random.uniform(key_id),
            "length": jax.random.randint(key_length, (), 1, cfg.longest + 1),
            "step": jnp.zeros((), jnp.int32),
        }
        return state, show(state, jnp.zeros(()))

    def step(
        key: Array, state: dict[str, Array], actions: Array
    ) -> tuple[dict[str, Array], TimeStep]:
        del key, actions
        reward = state["step"].astype(jnp.float32) + 1.0
        state = {**state, "step": state["step"] + 1}
        return state, show(state, reward)

    return base.team_env(spec, reset, step)
