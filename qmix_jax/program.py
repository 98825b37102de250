"""Composition root: configuration -> the pure functions of one member."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import (
    components,
    config,
    evaluate,
    learner,
    own,
    plan,
    replay,
    rollout,
    train_step,
)  # fmt: skip
from qmix_jax.agents import base as agents
from qmix_jax.envs import base as envs
from qmix_jax.factorisations import base as factorisations
from qmix_jax.mixers import base as mixers
from qmix_jax.types import Array, EnvSpec, HParams, Schedule, Trajectory


class Parts(NamedTuple):
    """The phases of a train step, to be run or measured alone."""

    factorisation: factorisations.Factorisation
    collector: rollout.Collector
    learner: learner.Learner
    buffer: replay.Buffer
    timeline: train_step.Timeline


class Host(NamedTuple):
    """An environment that is stepped in Python.

    Attributes:
      make: one to train in.
      initial_carry: the agent's, `(batch_size) -> carry`.
      episodes: of an evaluation.
    """

    make: Callable[[], envs.HostEnv]
    initial_carry: Callable[[int], Any]
    episodes: int


class Program(NamedTuple):
    """One member's functions; nothing here is compiled.

    Attributes:
      spec: the environment's facts.
      plan: the run's arithmetic.
      step: init, warm-up, training loop and `learn`.
      parts: what `step` is made of.
      evaluate: `(key, params, index i32[]) -> name -> f32[]`, greedy.
      act: `Factorisation.act`.
      decision_points: the environment's, empty for most.
      tables: `(params) -> one array per decision point`: joint values f32[A, ..., A], or utilities
        f32[N, A] (NaN for actions an agent lacks) where the factorisation has no joint value.
      joint_tables: `tables` are joint values.
      unrestricted_tables: as `tables`, of the second joint value where the factorisation has one
        (`Factorisation.unrestricted_values`), else None.
      utilities: `(params) -> f32[N, A] per decision point`, NaN for actions that an agent lacks.
      host: where the environment is stepped in Python; None where `step` and `evaluate` do it all.
    """

    spec: EnvSpec
    plan: plan.Plan
    step: train_step.TrainStep
    parts: Parts
    evaluate: Callable[[Array, Any, Array], dict[str, Array]]
    act: Callable[..., Any]
    decision_points: tuple[envs.DecisionPoint, ...]
    tables: Callable[[Any], tuple[Array, ...]]
    joint_tables: bool
    unrestricted_tables: Callable[[Any], tuple[Array, ...]] | None
    utilities: Callable[[Any], tuple[Array, ...]]
    host: Host | None = None


def build(cfg: config.ExperimentConfig) -> Program:
    """Builds the program of a configuration.

    Raises:
      ConfigError: settings that cannot be honoured, before anything is compiled.
    """
    with own.explained(cfg):
        return _build(cfg)


def _build(cfg: config.ExperimentConfig) -> Program:
    env = components.find("envs", cfg.env.name).make(cfg.env.options)
    spec = env.spec
    factorisation = make_factorisation(cfg, spec)
    _check_target(cfg, factorisation)
    codes = replay.Codes(cfg.replay.obs_dtype, cfg.replay.state_dtype)
    replay.check_codes(spec, codes)
    shapes = _sequence_shapes(cfg, spec, codes, factorisation)
    arithmetic = plan.make(cfg, spec.max_steps, replay.sequence_bytes(shapes))
    trainer = cfg.trainer
    # Evaluation keeps the environment's own end of an episode; only targets see the switch.
    training_env = (
        envs.with_truncation_as_termination(env) if trainer.truncation == "terminate" else env
    )
    parts = Parts(
        factorisation=factorisation,
        collector=_collector(trainer, training_env, factorisation, arithmetic.window),
        learner=learner.make(factorisation, learner.make_optimiser(**cfg.optimiser.model_dump())),
        buffer=_buffer(cfg.replay, replay.make_ring(spec, shapes, codes, arithmetic.capacity)),
        timeline=train_step.Timeline(
            n_envs=trainer.n_envs,
            window=arithmetic.window,
            gradient_steps=trainer.gradient_steps,
            warm_up=arithmetic.warm_up_collects,
        ),
    )
    joint, free = factorisation.joint_values, factorisation.unrestricted_values
    return Program(
        spec=spec,
        plan=arithmetic,
        step=train_step.make(*parts),
        parts=parts,
        evaluate=_make_evaluate(env, factorisation, cfg.eval.episodes),
        act=factorisation.act,
        decision_points=env.decision_points,
        tables=_make_tables(joint, env) if joint else _make_utilities(factorisation, env),
        joint_tables=joint is not None,
        unrestricted_tables=free and _make_tables(free, env),
        utilities=_make_utilities(factorisation, env),
        host=training_env.host
        and Host(training_env.host, factorisation.initial_carry, cfg.eval.episodes),
    )


def baseline(
    cfg: config.ExperimentConfig, policy: str
) -> tuple[str, Callable[[Array], dict[str, Array]]]:
    """The environment's name, and `(key) -> name -> f32[]`, an evaluation in which a policy written
    by hand plays.

    Args:
      cfg: of which the environment and `eval.episodes` matter.
      policy: `random`, uniform over available actions, or `heuristic`, the environment's own.
    Raises:
      ConfigError: the environment has no such policy.
    """
    env = components.find("envs", cfg.env.name).make(cfg.env.options)
    known = {"random": envs.uniform_policy(), "heuristic": env.heuristic}
    policies = {name: found for name, found in known.items() if found is not None}
    if policy not in policies:
        raise config.ConfigError(
            f"baseline: {env.spec.name} has no policy={policy}; "
            f"{config.suggest(policy, tuple(policies))}"
        )
    played = envs.played_by(env, policies[policy])

    def idle(carry: tuple[()], obs: Array, prev_actions: Array, *rest: Array) -> Any:
        del obs, rest
        return carry, jnp.zeros_like(prev_actions)

    def run(key: Array) -> dict[str, Array]:
        event = train_step.stream(key, train_step.EVAL, jnp.zeros((), jnp.int32))
        return evaluate.evaluate(played, idle, (), cfg.eval.episodes, event)

    return env.spec.name, run


def environment(cfg: config.ExperimentConfig) -> envs.Env:
    """The environment of a configuration. Raises: ConfigError for options it cannot honour."""
    return components.find("envs", cfg.env.name).make(cfg.env.options)


def evaluation(
    cfg: config.ExperimentConfig, env: envs.Env
) -> Callable[[Array, Any, Array], dict[str, Array]]:
    """`Program.evaluate` alone, in any environment: nothing of training is built.

    Raises: ConfigError if algorithm and environment do not fit together.
    """
    return _make_evaluate(env, make_factorisation(cfg, env.spec), cfg.eval.episodes)


def hparams(cfg: config.HParams) -> HParams:
    """The traced numbers of a configuration as scalars."""

    def scalar(value: float) -> Array:
        return jnp.asarray(value, jnp.float32)

    return HParams(
        learning_rate=_schedule(cfg.learning_rate),
        epsilon=_schedule(cfg.epsilon),
        gamma=scalar(cfg.gamma),
        td_lambda=scalar(cfg.td_lambda),
        reward_scale=scalar(cfg.reward_scale),
        max_grad_norm=scalar(cfg.max_grad_norm),
        target_period=jnp.asarray(cfg.target_period, jnp.int32),
        target_tau=scalar(cfg.target_tau),
        huber_delta=scalar(cfg.huber_delta),
        algo={name: scalar(value) for name, value in cfg.algo.model_dump().items()},
    )


def _schedule(cfg: config.Schedule) -> Schedule:
    values = {name: jnp.asarray(value, jnp.float32) for name, value in cfg.model_dump().items()}
    return Schedule(**values)


def make_factorisation(cfg: config.ExperimentConfig, spec: EnvSpec) -> factorisations.Factorisation:
    """Agent, mixer and factorisation of a configuration, for an environment of these sizes.

    Raises: ConfigError if they do not fit together.
    """
    chosen = cfg.algo.factorisation
    module = components.find("factorisations", chosen.name)
    try:
        return module.make(chosen.options, spec, *_networks(cfg, spec))
    except ValueError as error:
        raise config.ConfigError(str(error)) from error


def explain(
    cfg: config.ExperimentConfig,
) -> tuple[EnvSpec, Callable[[Array, Any], tuple[Trajectory, dict[str, Array]]]]:
    """The environment, and `(key, params) -> (trajectory, info)`: one greedy episode, B = 1, and
    what the mixer shows of each step, `MixerOutput.info` [T, 1, ...].

    Raises: ConfigError for an algorithm without a mixer.
    """
    env = components.find("envs", cfg.env.name).make(cfg.env.options)
    agent, mixer = _networks(cfg, env.spec)
    if mixer is None:
        raise config.ConfigError(f"weights: algo {cfg.algo.name!r} has no mixer to look into")
    factorisation = make_factorisation(cfg, env.spec)
    longest = env.spec.max_steps
    collector = rollout.make_episode(env, factorisation.initial_carry, 1, longest)

    def run(key: Array, params: Any) -> tuple[Trajectory, dict[str, Array]]:
        greedy = train_step.behaviour(factorisation, params, jnp.zeros(()))
        trajectory = collector.collect(key, (), greedy)[1]
        q = agents.unroll(agent, params["agent"], trajectory).q[:-1]
        avail, state = trajectory.avail_actions[:-1], trajectory.state[:-1]
        inputs = mixers.inputs(q, avail, trajectory.actions, state)
        return trajectory, mixer.apply(params["mixer"], inputs).info

    return env.spec, run


def watch(
    cfg: config.ExperimentConfig,
    env: envs.Env,
    look: Callable[[envs.EnvState], Any],
    n_episodes: int,
) -> Callable[[Array, Any], evaluate.Episodes]:
    """`(key, params) -> Episodes`: what the first evaluation with this key would play, and what it
    looks like.

    Args:
      cfg: whose networks play.
      env: where they play.
      look: `(env_state) -> tree of arrays`, what to keep of a state.
      n_episodes: B.
    """
    factorisation = make_factorisation(cfg, env.spec)
    carry = factorisation.initial_carry(n_episodes)

    def run(key: Array, params: Any) -> evaluate.Episodes:
        greedy = train_step.behaviour(factorisation, params, jnp.zeros(()))
        event = train_step.stream(key, train_step.EVAL, jnp.zeros((), jnp.int32))
        return evaluate.watch(env, greedy, carry, n_episodes, event, look)

    return run


def make_agent(cfg: config.ExperimentConfig, spec: EnvSpec) -> agents.Agent:
    """The agent of a configuration, for an environment of these sizes, in the run's precision.

    Raises: ConfigError if they do not fit together.
    """
    agent = components.find("agents", cfg.agent.name).make(cfg.agent.options, spec)
    return agents.in_bfloat16(agent) if cfg.precision == "bfloat16" else agent


def _networks(
    cfg: config.ExperimentConfig, spec: EnvSpec
) -> tuple[agents.Agent, mixers.Mixer | None]:
    chosen = cfg.algo.mixer
    mixer = chosen and components.find("mixers", chosen.name).make(chosen.options, spec)
    if mixer and cfg.precision == "bfloat16":
        mixer = mixers.in_bfloat16(mixer)
    return make_agent(cfg, spec), mixer


def _sequence_shapes(
    cfg: config.ExperimentConfig,
    spec: EnvSpec,
    codes: replay.Codes,
    factorisation: factorisations.Factorisation,
) -> replay.BufferState:
    length = plan.window_length(cfg, spec.max_steps) + cfg.trainer.burn_in
    kind = cfg.replay.kind
    if cfg.trainer.collector != "window":
        return replay.sequence_shapes(spec, length, codes, kind=kind)
    carry = jax.eval_shape(lambda: factorisation.initial_carry(1))
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carry)
    return replay.sequence_shapes(spec, length, codes, one, kind)


def _check_target(
    cfg: config.ExperimentConfig, factorisation: factorisations.Factorisation
) -> None:
    if cfg.replay.kind == "on_policy" and factorisation.uses_target:
        raise config.ConfigError(
            f"algo: {cfg.algo.name} has a target network, and replay.kind=on_policy learns without "
            "one; use algo=pqn_vdn or algo=pqn_qmix, or set replay.kind=uniform"
        )


def _buffer(cfg: config.Replay, ring: replay.Ring) -> replay.Buffer:
    if cfg.kind == "on_policy":
        return replay.make_on_policy(ring, cfg.batch_size)
    if cfg.kind == "prioritised":
        correction = _schedule(cfg.importance_exponent)
        return replay.make_prioritised(ring, cfg.batch_size, cfg.priority_exponent, correction)
    return replay.make_uniform(ring, cfg.batch_size)


def _collector(
    trainer: config.Trainer,
    env: envs.Env,
    factorisation: factorisations.Factorisation,
    window: int,
) -> rollout.Collector:
    if env.host and trainer.collector != "episode":
        raise config.ConfigError(
            f"plan: {env.spec.name} is stepped in Python, an episode at a time, and "
            f"trainer.collector={trainer.collector}; set trainer.collector=episode "
            "trainer.window=null (experiment=pettingzoo does)"
        )
    common = (env, factorisation.initial_carry, trainer.n_envs, window)
    if trainer.collector == "window":
        return rollout.make_window(*common, trainer.burn_in)
    if trainer.collector == "segment":
        return rollout.make_segment(*common)
    return rollout.make_episode(*common)


def _make_evaluate(
    env: envs.Env, factorisation: factorisations.Factorisation, n_episodes: int
) -> Callable[[Array, Any, Array], dict[str, Array]]:
    carry = factorisation.initial_carry(n_episodes)

    def run(key: Array, params: Any, index: Array) -> dict[str, Array]:
        greedy = train_step.behaviour(factorisation, params, jnp.zeros(()))
        event = train_step.stream(key, train_step.EVAL, index)
        return evaluate.evaluate(env, greedy, carry, n_episodes, event)

    return run


def _make_tables(
    joint_values: Callable[..., Array], env: envs.Env
) -> Callable[[Any], tuple[Array, ...]]:
    sizes = env.spec.n_actions
    exists = jnp.asarray(envs.existing_actions(sizes))

    def table(params: Any, point: envs.DecisionPoint) -> Array:
        joint = jnp.asarray(list(itertools.product(*map(range, sizes))), jnp.int32)
        obs, state = jnp.asarray(point.obs), jnp.asarray(point.state)
        return joint_values(params, obs, state, exists, joint).reshape(sizes)

    return lambda params: tuple(table(params, point) for point in env.decision_points)


def _make_utilities(
    factorisation: factorisations.Factorisation, env: envs.Env
) -> Callable[[Any], tuple[Array, ...]]:
    exists = jnp.asarray(envs.existing_actions(env.spec.n_actions))

    def utilities(params: Any, point: envs.DecisionPoint) -> Array:
        return jnp.where(exists, factorisation.utilities(params, jnp.asarray(point.obs)), jnp.nan)

    return lambda params: tuple(utilities(params, point) for point in env.decision_points)
