"""Arithmetic of a run: derives updates, windows and replay capacity before anything is compiled."""

import dataclasses
import math
from collections.abc import Sequence

from qmix_jax import config

_DEFAULT_CAPACITY = 5_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Derived sizes of a run; steps are env steps of one member.

    Attributes:
      window: new env steps per collected sequence.
      burn_in: steps of the previous rollout that a sequence repeats (`window` collector).
      steps_per_update: env steps of one update.
      warm_up_collects: rollouts before the first update.
      n_updates: updates, each one rollout and K gradient steps.
      gradient_steps: K.
      log_every, eval_every: updates between rows and between evaluations.
      capacity: sequences in one member's replay.
      sequence_bytes: bytes of one stored sequence.
    """

    window: int
    burn_in: int
    steps_per_update: int
    warm_up_collects: int
    n_updates: int
    gradient_steps: int
    log_every: int
    eval_every: int
    capacity: int
    sequence_bytes: int

    @property
    def replay_bytes(self) -> int:
        """Bytes of one member's replay."""
        return self.capacity * self.sequence_bytes

    @property
    def env_steps(self) -> int:
        """Env steps of the run, warm-up included."""
        return self.env_steps_at(self.n_updates)

    def env_steps_at(self, update: int) -> int:
        """Returns the env steps collected before an update."""
        return (self.warm_up_collects + update) * self.steps_per_update

    def stored_at(self, update: int) -> int:
        """Returns the number of sequences in one member's replay before an update."""
        added = (self.warm_up_collects + update) * self.steps_per_update // self.window
        return min(added, self.capacity)

    def stops(self) -> tuple[int, ...]:
        """Returns the updates after which rows are written, in order; the last is `n_updates`."""
        points = {self.n_updates}
        for every in (self.log_every, self.eval_every):
            points.update(range(every, self.n_updates, every))
        return tuple(sorted(points))

    def rungs(self, fractions: Sequence[float]) -> tuple[int, ...]:
        """Returns the first evaluation at or after each fraction of the run, as updates.

        Raises: ConfigError if two rungs coincide, or one with the end of the run.
        """
        every, updates = self.eval_every, self.n_updates
        rungs = tuple(math.ceil(fraction * updates / every) * every for fraction in fractions)
        if list(rungs) == sorted({*rungs}) and all(rung < updates for rung in rungs):
            return rungs
        steps = ", ".join(f"{self.env_steps_at(rung):,}" for rung in rungs)
        raise config.ConfigError(
            f"rungs: {list(fractions)} of {self.env_steps:,} env steps fall on the evaluations at "
            f"{steps}; rungs must increase and precede the end of the run: choose others, or lower "
            "eval.every"
        )


def window_length(cfg: config.ExperimentConfig, longest_episode: int) -> int:
    """Returns the new env steps per collected sequence.

    Raises: ConfigError for a window shorter than the longest episode, or an impossible burn-in.
    """
    trainer = cfg.trainer
    window = trainer.window or longest_episode
    if trainer.collector == "window":
        if trainer.burn_in > window:
            raise config.ConfigError(
                f"plan: trainer.burn_in={trainer.burn_in} exceeds trainer.window={window}; lower it"
            )
        return window
    if trainer.burn_in:
        raise config.ConfigError(
            f"plan: trainer.burn_in={trainer.burn_in} with trainer.collector={trainer.collector}, "
            "whose sequences start with an episode; set it to 0, or collector=window"
        )
    if window < longest_episode:
        raise config.ConfigError(
            f"plan: trainer.window={window} is shorter than the longest episode "
            f"({longest_episode} steps); raise it to at least {longest_episode}, set null, or use "
            "trainer.collector=window"
        )
    return window


def make(cfg: config.ExperimentConfig, longest_episode: int, sequence_bytes: int) -> Plan:
    """Plans a run.

    Args:
      cfg: the experiment.
      longest_episode: `EnvSpec.max_steps`.
      sequence_bytes: bytes of one stored sequence.
    Raises: ConfigError for contradictory settings.
    """
    trainer = cfg.trainer
    window = window_length(cfg, longest_episode)
    steps_per_update = trainer.n_envs * window
    # At least one batch is stored before the first gradient step.
    first_batch = math.ceil(_batch(cfg, window) / trainer.n_envs) - 1
    warm_up = max(math.ceil(trainer.warm_up / steps_per_update), first_batch)
    n_updates = max(1, math.ceil(trainer.env_steps / steps_per_update) - warm_up)
    # The steps of `_DEFAULT_CAPACITY` episodes of the longest kind.
    default = math.ceil(_DEFAULT_CAPACITY * longest_episode / window)
    useful = min((warm_up + n_updates) * trainer.n_envs, default)
    if cfg.replay.kind == "on_policy":
        _check_epochs(cfg)
        useful = trainer.n_envs
    return Plan(
        window=window,
        burn_in=trainer.burn_in,
        steps_per_update=steps_per_update,
        warm_up_collects=warm_up,
        n_updates=n_updates,
        gradient_steps=trainer.gradient_steps,
        log_every=math.ceil(trainer.log_every / steps_per_update),
        eval_every=math.ceil(cfg.eval.every / steps_per_update),
        capacity=_capacity(cfg, sequence_bytes, useful, _batch(cfg, window)),
        sequence_bytes=sequence_bytes,
    )


def make_online(cfg: config.ExperimentConfig, longest_episode: int) -> Plan:
    """Plans a run of an online learner, which learns after every env step and stores nothing.

    Raises: ConfigError for settings of stored sequences.
    """
    trainer = cfg.trainer
    if trainer.warm_up or trainer.burn_in:
        raise config.ConfigError(
            f"plan: trainer.warm_up={trainer.warm_up} trainer.burn_in={trainer.burn_in}, but "
            f"{cfg.algo.name} learns after every env step and stores nothing; set both to 0"
        )
    window = trainer.window or longest_episode
    steps_per_update = trainer.n_envs * window
    return Plan(
        window=window,
        burn_in=0,
        steps_per_update=steps_per_update,
        warm_up_collects=0,
        n_updates=max(1, math.ceil(trainer.env_steps / steps_per_update)),
        gradient_steps=steps_per_update,
        log_every=math.ceil(trainer.log_every / steps_per_update),
        eval_every=math.ceil(cfg.eval.every / steps_per_update),
        capacity=0,
        sequence_bytes=0,
    )


def _batch(cfg: config.ExperimentConfig, window: int) -> int:
    """Sequences that must be stored to sample a minibatch."""
    if cfg.replay.kind == "transitions":
        return math.ceil(cfg.replay.batch_size / (window + cfg.trainer.burn_in))
    return cfg.replay.batch_size


def _capacity(cfg: config.ExperimentConfig, sequence_bytes: int, useful: int, batch: int) -> int:
    replay, n_envs = cfg.replay, cfg.trainer.n_envs
    if replay.capacity is not None:
        if batch > replay.capacity:
            raise config.ConfigError(
                f"plan: replay.batch_size={batch} exceeds replay.capacity={replay.capacity}; "
                "raise capacity or lower batch_size"
            )
        if replay.capacity % n_envs:
            raise config.ConfigError(
                f"plan: replay.capacity={replay.capacity} is not a multiple of "
                f"trainer.n_envs={n_envs}; use {math.ceil(replay.capacity / n_envs) * n_envs}"
            )
        return replay.capacity
    affordable = replay.byte_budget // sequence_bytes
    needed = math.ceil(batch / n_envs) * n_envs
    if affordable < needed:
        raise config.ConfigError(
            f"plan: replay.byte_budget={replay.byte_budget} holds {affordable} sequences of "
            f"{sequence_bytes} bytes, but replay.batch_size={replay.batch_size} with "
            f"trainer.n_envs={n_envs} needs {needed}; raise it to {needed * sequence_bytes}, lower "
            "batch_size, or set replay.obs_dtype=float16"
        )
    wanted = max(math.ceil(useful / n_envs) * n_envs, needed)
    return min(wanted, affordable // n_envs * n_envs)


def _check_epochs(cfg: config.ExperimentConfig) -> None:
    """Raises: ConfigError unless minibatches use every sequence of the rollout equally often."""
    n_envs, batch_size = cfg.trainer.n_envs, cfg.replay.batch_size
    steps, per_epoch = cfg.trainer.gradient_steps, n_envs // batch_size
    if n_envs % batch_size:
        divisor = max(size for size in range(1, min(batch_size, n_envs) + 1) if n_envs % size == 0)
        raise config.ConfigError(
            f"plan: replay.kind=on_policy with replay.batch_size={batch_size}, which does not "
            f"divide trainer.n_envs={n_envs}; use {divisor}"
        )
    if steps % per_epoch:
        raise config.ConfigError(
            f"plan: replay.kind=on_policy with trainer.gradient_steps={steps}, not a multiple of "
            f"the {per_epoch} minibatches of an epoch (trainer.n_envs / replay.batch_size); use "
            f"{math.ceil(steps / per_epoch) * per_epoch}"
        )
    if cfg.replay.capacity not in (None, n_envs):
        raise config.ConfigError(
            f"plan: replay.kind=on_policy with replay.capacity={cfg.replay.capacity}, but only the "
            "last rollout is stored; set it to null"
        )
