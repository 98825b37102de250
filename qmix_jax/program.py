"""Composition root: builds the pure functions of one member from a configuration."""

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
    """Uncompiled functions of one member.

    Attributes:
      env: the environment; a `HostEnv` is stepped between `step.begin` and `step.absorb`, and
        neither `step.update` nor `evaluate` can be compiled.
      plan: the run's arithmetic.
      step: the phases of an update.
      eval_setup: environments of an evaluation.
      evaluate: `(key, params, index i32[]) -> name -> f32[]`, greedy.
      behaviour: name -> shape of [B, ...] for B = 1, added by acting at each step.
    """

    env: AnyEnv
    plan: plan.Plan
    step: train_step.TrainStep
    eval_setup: rollout.CollectorSetup
    evaluate: Callable[[Array, Any, Array], dict[str, Array]]
    behaviour: dict[str, Any]

    @property
    def spec(self) -> EnvSpec:
        """The environment's spec."""
        return self.env.spec

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """Names of the metrics of an evaluation, in the order of their columns."""
        by_agent = () if self.eval_setup.is_shared else self.spec.agent_names
        return (*self.spec.eval_metrics, *(f"return/{name}" for name in by_agent))


def build(cfg: config.ExperimentConfig) -> Program:
    """Builds the program of a configuration.

    Raises: ConfigError for settings that cannot be honoured; nothing is compiled yet.
    """
    with user_code.explain_errors(cfg):
        return _build(cfg)


def _build(cfg: config.ExperimentConfig) -> Program:
    trainer, env = cfg.trainer, environment(cfg)
    module = components.find("algorithms", cfg.algo.algorithm)
    _check_fit(cfg, env, getattr(module, "NEEDS", algorithms.Needs()), has_memory=False)
    algorithm = make_algorithm(cfg, env.spec)
    carry = jax.eval_shape(lambda: algorithm.initial_carry(1))
    _check_fit(cfg, env, algorithm.needs, has_memory=bool(jax.tree.leaves(carry)))
    dtypes = replay.StorageDtypes(cfg.replay.obs_dtype, cfg.replay.state_dtype)
    replay.check_storage(env.spec, dtypes)
    # `terminate` affects targets only: evaluation uses the unchanged environment.
    ends = trainer.truncation == "terminate"
    training_env = envs.with_truncation_as_termination(env) if ends else env
    behaviour = _behaviour_shapes(algorithm, env.spec)
    online = algorithm.learner.online
    if online:
        run_plan, buffer = plan.make_online(cfg, env.spec.max_steps), replay.NO_REPLAY
    else:
        stored = _stored_fields(cfg, env.spec, algorithm, behaviour)
        shapes = replay.sequence_shapes(env.spec, stored, dtypes, cfg.replay.kind)
        run_plan = plan.make(cfg, env.spec.max_steps, replay.sequence_bytes(shapes))
        ring = replay.Ring(env.spec, shapes, dtypes, run_plan.capacity)
        buffer = _buffer(cfg.replay, ring, stored.length)
    setup = collector_setup(algorithm, training_env, trainer.n_envs, behaviour)
    eval_setup = collector_setup(algorithm, env, cfg.eval.episodes)
    return Program(
        env=env,
        plan=run_plan,
        step=train_step.TrainStep(
            algorithm=algorithm,
            collector=_collector(trainer, setup, run_plan.window, online),
            buffer=buffer,
            timeline=train_step.Timeline(
                n_envs=trainer.n_envs,
                window=run_plan.window,
                gradient_steps=run_plan.gradient_steps,
                warm_up=run_plan.warm_up_collects,
            ),
        ),
        eval_setup=eval_setup,
        evaluate=make_evaluate(algorithm, eval_setup),
        behaviour=behaviour,
    )


def environment(cfg: config.ExperimentConfig) -> AnyEnv:
    """Makes the environment. Raises: ConfigError for options it cannot honour."""
    return components.find("envs", cfg.env.name).make(cfg.env.options)


def make_algorithm(
    cfg: config.ExperimentConfig, spec: EnvSpec, mixer: mixers.Mixer | None = None
) -> algorithms.Algorithm:
    """Makes the algorithm and its networks for an environment of these sizes.

    Args:
      mixer: replaces the configured one.
    Raises: ConfigError if the components do not fit together.
    """
    module = components.find("algorithms", cfg.algo.algorithm)
    parts = algorithms.Components(
        agent=partial(make_agent, cfg, spec),
        mixer=mixer or _mixer(cfg, spec),
        optimiser=learner.make_optimiser(**cfg.optimiser.model_dump()),
    )
    try:
        return module.make(cfg.algo.options, spec, parts)
    except ValueError as error:
        raise config.ConfigError(str(error)) from error


def make_agent(cfg: config.ExperimentConfig, spec: EnvSpec, width: int) -> agents.Agent:
    """Makes the agent network in the run's precision.

    Args:
      spec: sizes of the environment.
      width: K, of its head.
    Raises: ConfigError if agent and environment do not fit together.
    """
    agent = components.find("agents", cfg.agent.name).make(cfg.agent.options, spec, width)
    return agents.in_bfloat16(agent) if cfg.precision == "bfloat16" else agent


def collector_setup(
    algorithm: algorithms.Algorithm, env: AnyEnv, n_envs: int, behaviour: Any = ()
) -> rollout.CollectorSetup:
    """Returns the setup of a rollout or an evaluation.

    Args:
      n_envs: B.
      behaviour: name -> shape, added by acting at each step; for rollouts only.
    """
    needs = algorithm.needs
    recording = rollout.Recording(needs.reward, needs.mean_action, behaviour or {})
    return rollout.CollectorSetup(env, algorithm.initial_carry, recording, n_envs)


def make_evaluate(
    algorithm: algorithms.Algorithm, setup: rollout.CollectorSetup
) -> Callable[[Array, Any, Array], dict[str, Array]]:
    """Returns `Program.evaluate` for any environment, without building a program."""

    def run(key: Array, params: Any, index: Array) -> dict[str, Array]:
        eval_key = train_step.stream(key, train_step.EVAL, index)
        return evaluate.evaluate(setup, train_step.greedy_policy(algorithm, params), eval_key)

    return run


def hparams(cfg: config.HParamsConfig) -> HParams:
    """Converts hyperparameters to traced scalars."""
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
    """Converts a number to f32[], a schedule to its record."""
    if not isinstance(value, config.Model):
        return jnp.asarray(value, jnp.float32)
    schedule = _SCHEDULES.get(type(value), Schedule)
    return schedule(**{name: _traced(number) for name, number in value.model_dump().items()})


def _mixer(cfg: config.ExperimentConfig, spec: EnvSpec) -> mixers.Mixer | None:
    if cfg.algo.mixer is None:
        return None
    mixer = components.find("mixers", cfg.algo.mixer.name).make(cfg.algo.mixer.options, spec)
    return mixers.in_bfloat16(mixer) if cfg.precision == "bfloat16" else mixer


def _check_fit(
    cfg: config.ExperimentConfig, env: AnyEnv, needs: algorithms.Needs, has_memory: bool
) -> None:
    """Raises: ConfigError if an algorithm's needs are not met; names the algorithms that fit."""
    setting = (env, cfg.replay.kind, cfg.trainer.collector, has_memory)
    reason = algorithms.unmet(needs, *setting)
    if reason is None:
        return
    modules = {name: components.find("algorithms", name) for name in components.names("algorithms")}
    fitting = [
        name for name, module in modules.items() if algorithms.unmet(module.NEEDS, *setting) is None
    ]
    raise config.ConfigError(
        f"algo: {cfg.algo.name} does not fit: {reason}; algorithms that fit: "
        f"{', '.join(fitting) or 'none'}"
    )


def _behaviour_shapes(algorithm: algorithms.Algorithm, spec: EnvSpec) -> Any:
    """`Program.behaviour`: name -> shape of [B, ...] for B = 1."""

    def first_step() -> Any:
        key = jax.random.key(0)
        observed = agents.zero_observed(spec, 1, mean_action=algorithm.needs.mean_action)
        carry = algorithm.initial_carry(1)["act"]
        return algorithm.act(algorithm.init(key), carry, observed, algorithm.greedy, key)

    return jax.eval_shape(first_step)[2]


def _stored_fields(
    cfg: config.ExperimentConfig, spec: EnvSpec, algorithm: algorithms.Algorithm, behaviour: Any
) -> replay.StoredFields:
    """The fields of a stored sequence, including those that `prepare` adds."""
    length = plan.window_length(cfg, spec.max_steps) + cfg.trainer.burn_in
    carry = None
    if cfg.trainer.collector == "window":
        carry = jax.eval_shape(lambda: algorithm.initial_carry(1))
        carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carry)
    needs = algorithm.needs
    stored = replay.StoredFields(
        length=length,
        reward_per_agent=needs.reward == "own",
        behaviour=behaviour,
        mean_action=needs.mean_action,
        carry=carry,
    )
    return stored._replace(behaviour=_prepared_behaviour(cfg, spec, algorithm, stored))


def _prepared_behaviour(
    cfg: config.ExperimentConfig,
    spec: EnvSpec,
    algorithm: algorithms.Algorithm,
    stored: replay.StoredFields,
) -> Any:
    """`StoredFields.behaviour` after `Learner.prepare`."""
    if algorithm.learner.prepare is learner.identity_prepare:
        return stored.behaviour
    n_envs = cfg.trainer.n_envs
    rows = replay.sequence_shapes(spec, stored, replay.StorageDtypes())

    def behaviour() -> Any:
        key = jax.random.key(0)
        ring = replay.Ring(spec, rows, replay.StorageDtypes(), n_envs)
        trajectory = ring.read(ring.init(), jnp.arange(n_envs))
        state = algorithm.learner.init(algorithm.init(key))
        zero = jnp.zeros((), jnp.int32)
        clock = Clock(update_index=zero, gradient_step=zero, env_steps=jnp.zeros(()), n_added=zero)
        args = (state, trajectory, hparams(cfg.hparams), clock, key)
        return algorithm.learner.prepare(*args)[1].behaviour

    shapes = jax.eval_shape(behaviour)
    # [T, B, ...] of a trajectory -> [B, ...] of a step with B = 1.
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), shapes)


def _buffer(cfg: config.ReplayConfig, ring: replay.Ring, length: int) -> replay.Buffer:
    if cfg.kind == "on_policy":
        return replay.make_on_policy(ring, cfg.batch_size)
    if cfg.kind == "transitions":
        return replay.make_transitions(ring, cfg.batch_size, length)
    if cfg.kind == "prioritised":
        correction = _traced(cfg.importance_exponent)
        return replay.make_prioritised(ring, cfg.batch_size, cfg.priority_exponent, correction)
    return replay.make_uniform(ring, cfg.batch_size)


def _collector(
    trainer: config.TrainerConfig, setup: rollout.CollectorSetup, window: int, online: bool
) -> collectors.Collector | collectors.OnlineCollector:
    if isinstance(setup.env, envs.HostEnv):
        name = setup.env.spec.name
        if trainer.collector != "episode" or online or setup.recording.mean_action:
            raise config.ConfigError(
                f"plan: {name} is stepped in Python, an episode at a time, without mean actions or "
                f"online learning, got trainer.collector={trainer.collector}; set "
                "trainer.collector=episode trainer.window=null (experiment=pettingzoo does)"
            )
        return collectors.for_host_env(setup.env.spec)
    if online:
        return collectors.make_online(setup, window)
    if trainer.collector == "window":
        return collectors.make_window(setup, window, trainer.burn_in)
    if trainer.collector == "segment":
        return collectors.make_segment(setup, window)
    return collectors.make_episode(setup, window)
