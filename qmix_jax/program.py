"""Composition root: configuration -> the pure functions of one member."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import (
    collectors,
    components,
    config,
    evaluate,
    learner,
    plan,
    replay,
    rollout,
    train_step,
    user_code,
)  # fmt: skip
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base as algorithms
from qmix_jax.envs import base as envs
from qmix_jax.mixers import base as mixers
from qmix_jax.types import (
    Array,
    Clock,
    EnvSpec,
    Exponential,
    HParams,
    Power,
    Schedule,
)

AnyEnv = envs.Env | envs.HostEnv


class Program(NamedTuple):
    """One member's functions; nothing here is compiled.

    Attributes:
      env: the environment; where it is a `HostEnv`, it is stepped between `step.begin` and
        `step.absorb`, and neither `step.update` nor `evaluate` can be compiled.
      plan: the run's arithmetic.
      step: the phases of an update, to be composed, run or measured.
      stage: what an evaluation runs.
      evaluate: `(key, params, index i32[]) -> name -> f32[]`, greedy.
      behaviour: what acting adds to one step, name -> shape of [B, ...] for B = 1.
    """

    env: AnyEnv
    plan: plan.Plan
    step: train_step.TrainStep
    stage: rollout.CollectorSetup
    evaluate: Callable[[Array, Any, Array], dict[str, Array]]
    behaviour: dict[str, Any]

    @property
    def spec(self) -> EnvSpec:
        """The environment's facts."""
        return self.env.spec

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """Names of what an evaluation measures, in the order of their columns."""
        by_agent = () if self.stage.is_shared else self.spec.agent_names
        return (*self.spec.eval_metrics, *(f"return/{name}" for name in by_agent))


def build(cfg: config.ExperimentConfig) -> Program:
    """Builds the program of a configuration.

    Raises:
      ConfigError: settings that cannot be honoured, before anything is compiled.
    """
    with user_code.explained(cfg):
        return _build(cfg)


def _build(cfg: config.ExperimentConfig) -> Program:
    trainer, env = cfg.trainer, environment(cfg)
    module = components.find("algorithms", cfg.algo.algorithm)
    _check_fit(cfg, env, getattr(module, "NEEDS", algorithms.Needs()), has_memory=False)
    algorithm = make_algorithm(cfg, env.spec)
    carry = jax.eval_shape(lambda: algorithm.initial_carry(1))
    _check_fit(cfg, env, algorithm.needs, has_memory=bool(jax.tree.leaves(carry)))
    codes = replay.StorageDtypes(cfg.replay.obs_dtype, cfg.replay.state_dtype)
    replay.check_codes(env.spec, codes)
    # Evaluation keeps the environment's own end of an episode; only targets see the switch.
    ends = trainer.truncation == "terminate"
    training_env = envs.with_truncation_as_termination(env) if ends else env
    behaviour = _behaviour_shapes(algorithm, env.spec)
    online = algorithm.learner.online
    if online:
        arithmetic = plan.make_online(cfg, env.spec.max_steps)
        buffer = replay.NOTHING
    else:
        extent = _extent(cfg, env.spec, algorithm, behaviour)
        shapes = replay.sequence_shapes(env.spec, extent, codes, cfg.replay.kind)
        arithmetic = plan.make(cfg, env.spec.max_steps, replay.sequence_bytes(shapes))
        ring = replay.Ring(env.spec, shapes, codes, arithmetic.capacity)
        buffer = _buffer(cfg.replay, ring, extent.length)
    step = train_step.TrainStep(
        algorithm=algorithm,
        collector=_collector(
            trainer,
            stage_of(algorithm, training_env, trainer.n_envs, behaviour),
            arithmetic.window,
            online,
        ),
        buffer=buffer,
        timeline=train_step.Timeline(
            n_envs=trainer.n_envs,
            window=arithmetic.window,
            gradient_steps=arithmetic.gradient_steps,
            warm_up=arithmetic.warm_up_collects,
        ),
    )
    stage = stage_of(algorithm, env, cfg.eval.episodes)
    return Program(
        env=env,
        plan=arithmetic,
        step=step,
        stage=stage,
        evaluate=evaluation(algorithm, stage),
        behaviour=behaviour,
    )


def environment(cfg: config.ExperimentConfig) -> AnyEnv:
    """The environment of a configuration. Raises: ConfigError for options it cannot honour."""
    return components.find("envs", cfg.env.name).make(cfg.env.options)


def make_algorithm(
    cfg: config.ExperimentConfig, spec: EnvSpec, mixer: mixers.Mixer | None = None
) -> algorithms.Algorithm:
    """The algorithm of a configuration with its networks, for an environment of these sizes.

    Args:
      mixer: instead of the configured one.
    Raises: ConfigError if they do not fit together.
    """
    module = components.find("algorithms", cfg.algo.algorithm)
    made = algorithms.Components(
        agent=partial(make_agent, cfg, spec),
        mixer=mixer or _mixer(cfg, spec),
        optimiser=learner.make_optimiser(**cfg.optimiser.model_dump()),
    )
    try:
        return module.make(cfg.algo.options, spec, made)
    except ValueError as error:
        raise config.ConfigError(str(error)) from error


def make_agent(cfg: config.ExperimentConfig, spec: EnvSpec, width: int) -> agents.Agent:
    """The agent of a configuration, in the run's precision.

    Args:
      spec: sizes of the environment.
      width: K, of its head.
    Raises: ConfigError if they do not fit together.
    """
    agent = components.find("agents", cfg.agent.name).make(cfg.agent.options, spec, width)
    return agents.in_bfloat16(agent) if cfg.precision == "bfloat16" else agent


def stage_of(
    algorithm: algorithms.Algorithm, env: AnyEnv, n_envs: int, behaviour: Any = ()
) -> rollout.CollectorSetup:
    """What a rollout or an evaluation of an algorithm runs.

    Args:
      n_envs: B.
      behaviour: shapes of what acting adds at each step, for rollouts.
    """
    needs = algorithm.needs
    recording = rollout.Recording(needs.reward, needs.mean_action, behaviour or {})
    return rollout.CollectorSetup(env, algorithm.initial_carry, recording, n_envs)


def evaluation(
    algorithm: algorithms.Algorithm, stage: rollout.CollectorSetup
) -> Callable[[Array, Any, Array], dict[str, Array]]:
    """`Program.evaluate`, in any environment: nothing of training is built."""

    def run(key: Array, params: Any, index: Array) -> dict[str, Array]:
        event = train_step.stream(key, train_step.EVAL, index)
        return evaluate.evaluate(stage, train_step.play(algorithm, params), event)

    return run


def hparams(cfg: config.HParamsConfig) -> HParams:
    """The traced numbers of a configuration as scalars."""
    return HParams(
        learning_rate=_traced(cfg.learning_rate),
        epsilon=_traced(cfg.epsilon),
        gamma=_traced(cfg.gamma),
        td_lambda=_traced(cfg.td_lambda),
        reward_scale=_traced(cfg.reward_scale),
        max_grad_norm=_traced(cfg.max_grad_norm),
        target_period=jnp.asarray(cfg.target_period, jnp.int32),
        target_tau=_traced(cfg.target_tau),
        huber_delta=_traced(cfg.huber_delta),
        algo={name: _traced(value) for name, value in cfg.algo},
    )


_SCHEDULES = {config.ExponentialConfig: Exponential, config.PowerConfig: Power}


def _traced(value: Any) -> Any:
    """A number as f32[], a schedule as its record."""
    if not isinstance(value, config.Model):
        return jnp.asarray(value, jnp.float32)
    made = _SCHEDULES.get(type(value), Schedule)
    return made(**{name: _traced(number) for name, number in value.model_dump().items()})


def _mixer(cfg: config.ExperimentConfig, spec: EnvSpec) -> mixers.Mixer | None:
    if cfg.algo.mixer is None:
        return None
    mixer = components.find("mixers", cfg.algo.mixer.name).make(cfg.algo.mixer.options, spec)
    return mixers.in_bfloat16(mixer) if cfg.precision == "bfloat16" else mixer


def _check_fit(
    cfg: config.ExperimentConfig, env: AnyEnv, needs: algorithms.Needs, has_memory: bool
) -> None:
    """Raises: ConfigError where an algorithm cannot learn so; names those that can."""
    setting = (env, cfg.replay.kind, cfg.trainer.collector, has_memory)
    reason = algorithms.unmet(needs, *setting)
    if reason is None:
        return
    modules = {name: components.find("algorithms", name) for name in components.names("algorithms")}
    fitting = [
        name for name, module in modules.items() if algorithms.unmet(module.NEEDS, *setting) is None
    ]
    raise config.ConfigError(
        f"algo: {cfg.algo.name} does not fit: {reason}; algo.algorithm that fits: "
        f"{', '.join(fitting) or 'none'}"
    )


def _behaviour_shapes(algorithm: algorithms.Algorithm, spec: EnvSpec) -> Any:
    """What acting adds to one step, name -> shape of [B, ...] for B = 1."""
    needs_mean = algorithm.needs.mean_action

    def first_step() -> Any:
        key = jax.random.key(0)
        seen = agents.nothing_seen(spec, 1, mean_action=needs_mean)
        carry = algorithm.initial_carry(1)["act"]
        return algorithm.act(algorithm.init(key), carry, seen, algorithm.greedy, key)

    return jax.eval_shape(first_step)[2]


def _extent(
    cfg: config.ExperimentConfig,
    spec: EnvSpec,
    algorithm: algorithms.Algorithm,
    behaviour: Any,
) -> replay.StoredFields:
    """What a stored sequence holds, with what `prepare` adds."""
    length = plan.window_length(cfg, spec.max_steps) + cfg.trainer.burn_in
    carry = None
    if cfg.trainer.collector == "window":
        carry = jax.eval_shape(lambda: algorithm.initial_carry(1))
        carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carry)
    needs = algorithm.needs
    extent = replay.StoredFields(
        length=length,
        own_reward=needs.reward == "own",
        behaviour=behaviour,
        mean_action=needs.mean_action,
        carry=carry,
    )
    prepared = _prepared(cfg, spec, algorithm, extent)
    return extent._replace(behaviour=prepared)


def _prepared(
    cfg: config.ExperimentConfig,
    spec: EnvSpec,
    algorithm: algorithms.Algorithm,
    extent: replay.StoredFields,
) -> Any:
    """`Extent.behaviour` after `Learner.prepare`."""
    if algorithm.learner.prepare is learner.unprepared:
        return extent.behaviour
    n_envs = cfg.trainer.n_envs
    rows = replay.sequence_shapes(spec, extent, replay.StorageDtypes())

    def prepared() -> Any:
        key = jax.random.key(0)
        ring = replay.Ring(spec, rows, replay.StorageDtypes(), n_envs)
        trajectory = ring.read(ring.init(), jnp.arange(n_envs))
        state = algorithm.learner.init(algorithm.init(key))
        zero = jnp.zeros((), jnp.int32)
        clock = Clock(update_index=zero, gradient_step=zero, env_steps=jnp.zeros(()), n_added=zero)
        numbers = hparams(cfg.hparams)
        return algorithm.learner.prepare(state, trajectory, numbers, clock, key)[1].behaviour

    shapes = jax.eval_shape(prepared)
    # [T, B, ...] of a trajectory -> [B, ...] of a step with B = 1.
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), shapes)


def _buffer(
    cfg: config.ReplayConfig,
    ring: replay.Ring,
    length: int,
) -> replay.Buffer:
    if cfg.kind == "on_policy":
        return replay.make_on_policy(ring, cfg.batch_size)
    if cfg.kind == "transitions":
        return replay.make_transitions(ring, cfg.batch_size, length)
    if cfg.kind == "prioritised":
        correction = _traced(cfg.importance_exponent)
        return replay.make_prioritised(ring, cfg.batch_size, cfg.priority_exponent, correction)
    return replay.make_uniform(ring, cfg.batch_size)


def _collector(
    trainer: config.TrainerConfig, stage: rollout.CollectorSetup, window: int, online: bool
) -> collectors.Collector | collectors.OnlineCollector:
    if isinstance(stage.env, envs.HostEnv):
        name = stage.env.spec.name
        if trainer.collector != "episode" or online or stage.recording.mean_action:
            raise config.ConfigError(
                f"plan: {name} is stepped in Python, an episode at a time, without mean actions or "
                f"learning at every step, and trainer.collector={trainer.collector}; set "
                "trainer.collector=episode trainer.window=null (experiment=pettingzoo does)"
            )
        return collectors.on_host(stage.env.spec)
    if online:
        return collectors.make_online(stage, window)
    if trainer.collector == "window":
        return collectors.make_window(stage, window, trainer.burn_in)
    if trainer.collector == "segment":
        return collectors.make_segment(stage, window)
    return collectors.make_episode(stage, window)
