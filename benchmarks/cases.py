"""Configurations and batches of the benchmarks."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config, learner, program, rollout, train_step
from qmix_jax.algorithms import base as algorithms
from qmix_jax.cli import composition
from qmix_jax.types import Batch, Clock, Discrete, EnvSpec, HParams, Trajectory

EQUAL_WORK = {
    "smax_2s3z": (
        "experiment=smax_2s3z", "trainer.collector=segment", "trainer.n_envs=16",
        "trainer.window=128", "trainer.burn_in=0", "trainer.gradient_steps=8",
        "replay.batch_size=32", "replay.capacity=480",
    ),
    "mpe_spread": (
        "experiment=mpe_spread", "trainer.collector=segment", "trainer.n_envs=8",
        "trainer.window=26", "trainer.burn_in=0", "trainer.gradient_steps=1",
        "replay.batch_size=32", "replay.capacity=480",
    ),
}  # fmt: skip
"""The settings of JaxMARL's recurrent QMIX, for ratios at equal work."""

SMOKE = (
    "experiment=two_step", "agent.options.hidden=8", "eval.episodes=2", "trainer.n_envs=4",
    "trainer.collector=segment", "trainer.gradient_steps=2", "replay.batch_size=4",
    "replay.capacity=16", "trainer.env_steps=64", "trainer.warm_up=16", "seeds=1",
)  # fmt: skip
"""Small enough to run in seconds."""


def load(overrides: Sequence[str]) -> config.ExperimentConfig:
    """Loads the configuration that `qmix-jax train` makes of the overrides."""
    return config.load(composition.compose(*overrides))


def named(overrides: Sequence[str], smoke: bool) -> dict[str, tuple[str, ...]]:
    """Returns name -> overrides: one case for the user's experiment, else `EQUAL_WORK`."""
    if smoke:
        return {"smoke": (*SMOKE, *overrides)}
    if any(override.startswith("experiment=") for override in overrides):
        return {"custom": tuple(overrides)}
    return {name: (*base, *overrides) for name, base in EQUAL_WORK.items()}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """T steps, B sequences, N agents, O observations, S state, A actions, H hidden units; E and F
    are the mixer's embedding and its hypernetworks' hidden width.
    """

    T: int = 128
    B: int = 32
    N: int = 5
    O: int = 127  # noqa: E741
    S: int = 120
    A: int = 10
    H: int = 64
    E: int = 64
    F: int = 256

    def spec(self) -> EnvSpec:
        """Returns the spec of an environment of these sizes."""
        return EnvSpec(
            name="synthetic",
            agent_names=tuple(f"agent_{i}" for i in range(self.N)),
            agent_groups=(0,) * self.N,
            actions=Discrete(self.A),
            obs_shapes=((self.O,),) * self.N,
            obs_shape=(self.O,),
            state_size=self.S,
            max_steps=self.T,
        )


class LearnerCase(NamedTuple):
    """A QMIX learner and the arguments of its update."""

    learner: learner.Learner
    state: learner.LearnerState
    batch: Batch
    hparams: HParams


def learner_case(sizes: Sizes, precision: str = "default") -> LearnerCase:
    """Returns recurrent QMIX with Adam on random sequences of these sizes."""
    cfg = config.load(
        {
            "precision": precision,
            "agent": {"name": "gru", "options": {"hidden": sizes.H}},
            "algo": {
                "name": "qmix",
                "algorithm": "td",
                "mixer": {
                    "name": "qmix",
                    "options": {"embed_dim": sizes.E, "hypernet_embed": sizes.F},
                },
            },
        }
    )
    algorithm = program.make_algorithm(cfg, sizes.spec())
    return LearnerCase(
        learner=algorithm.learner,
        state=algorithm.learner.init(algorithm.init(jax.random.key(0))),
        batch=random_batch(sizes),
        hparams=program.hparams(cfg.hparams),
    )


def clock(gradient_step: Any) -> Clock:
    """Returns the clock at the start of a run, with this gradient step."""
    timeline = train_step.Timeline(n_envs=1, window=1, gradient_steps=1, warm_up=0)
    return timeline.clock(jnp.asarray(gradient_step, jnp.int32))


def late_policy(
    algorithm: algorithms.Algorithm, params: Any, hparams: HParams
) -> rollout.BoundPolicy:
    """Binds the policy with the exploration of the end of training."""
    late = dataclasses.replace(clock(0), env_steps=jnp.float32(1e12))
    return train_step.bind_policy(algorithm, params, algorithm.exploration(hparams, late))


def random_batch(sizes: Sizes) -> Batch:
    """Returns sequences of joined episodes with random contents."""
    rng = np.random.default_rng(0)
    t, b, n = sizes.T, sizes.B, sizes.N

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    reset = rng.random((t + 1, b)) < 1 / 40
    reset[0] = True
    avail = rng.random((t + 1, b, n, sizes.A)) < 0.7
    avail[..., 0] = True
    trajectory = Trajectory(
        obs=normal(t + 1, b, n, sizes.O),
        state=normal(t + 1, b, sizes.S),
        avail_actions=jnp.asarray(avail),
        reset=jnp.asarray(reset),
        actions=jnp.asarray(rng.integers(0, sizes.A, (t, b, n)), jnp.int32),
        reward=normal(t, b),
        terminated=jnp.asarray(reset[1:]),
        valid=jnp.ones((t, b), bool),
    )
    return Batch(trajectory=trajectory, weight=jnp.ones((b,)), index=jnp.arange(b, dtype=jnp.int32))
