"""Trains on environments stepped in Python; acting and learning stay compiled.

For each update a member plays a complete episode in each of its `n_envs` environments, then learns
from them, as the `episode` collector does inside a program. Members of a round act together: one
compiled call per step. Each episode starts from a seed of the member's random stream, so only
arrays persist between updates.
"""

import contextlib
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import entry_points, train_step
from qmix_jax import program as programs
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, Box, EnvSpec, HParams, Metrics, Observed, Trajectory, record


class HostEpisodeBatch(NamedTuple):
    """Complete episodes of E environments in NumPy, `[T+1, E, ...]` and `[T, E, ...]`.

    After an episode ends its last entry is repeated, and `running` bool[T, E] is False. `reward` is
    per agent, f32[T, E, N]; `behaviour` is as in `Trajectory`.
    """

    obs: np.ndarray
    state: np.ndarray
    avail_actions: np.ndarray
    actions: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    running: np.ndarray
    behaviour: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]

    def scores(self, env: envs.HostEnv, by_agent: bool) -> dict[str, np.ndarray]:
        """Return, length and metrics of each episode, f64[E]; `by_agent` adds returns per agent."""
        total = np.where(self.running, envs.score(env, self.reward), 0.0)
        scores = {
            "return": total.sum(axis=0, dtype=np.float64),
            "length": self.running.sum(axis=0) * 1.0,
            **self.metrics,
        }
        if by_agent:
            rewards = np.where(self.running[..., None], self.reward, 0.0)
            returns = rewards.sum(axis=0, dtype=np.float64)
            scores |= {
                f"return/{name}": returns[:, i] for i, name in enumerate(env.spec.agent_names)
            }
        return scores


class HostEnvPool:
    """Environments, started on first use and closed with the pool."""

    def __init__(self, env: envs.HostEnv, behaviour: dict[str, Any] | None = None) -> None:
        """`behaviour`: name -> shape and dtype of stored behaviour, [B, ...] with B = 1."""
        self._env = env
        self._behaviour = behaviour or {}
        self._episodes: list[envs.HostEpisodes] = []
        weakref.finalize(self, _close, self._episodes)

    def play(
        self, seeds: np.ndarray, act: Callable[..., tuple[np.ndarray, dict[str, Any]]]
    ) -> HostEpisodeBatch:
        """Plays an episode from each seed, all in parallel.

        Args:
          seeds: i[E].
          act: `(t, episodes so far, prev_actions) -> (actions, behaviour)`, actions [E, N, ...];
            keeps the agents' carry itself.
        """
        while len(self._episodes) < len(seeds):
            self._episodes.append(self._env.start())
        spec = self._env.spec
        batch = _empty(spec, len(seeds), self._behaviour)
        for e, seed in enumerate(seeds):
            _write_timestep(batch, 0, e, self._episodes[e].reset(int(seed)))
        none = np.asarray(spec.actions.none())
        actions = np.broadcast_to(none, (len(seeds), *none.shape))
        over = np.zeros(len(seeds), bool)
        t = 0
        while t < spec.max_steps and not over.all():
            actions, behaviour = act(t, batch, actions)
            batch.actions[t] = actions
            for name, values in behaviour.items():
                batch.behaviour[name][t] = values
            batch.running[t] = ~over
            for values in (batch.obs, batch.state, batch.avail_actions):
                values[t + 1] = values[t]
            for e in np.flatnonzero(~over).tolist():
                over[e] = _step(batch, t, e, self._episodes[e])
            t += 1
        for values in (batch.obs, batch.state, batch.avail_actions):
            values[t + 1 :] = values[t]
        return batch


def _close(environments: list[envs.HostEpisodes]) -> None:
    for env in environments:
        with contextlib.suppress(Exception):  # the process may be ending
            env.close()


def _empty(spec: EnvSpec, n: int, behaviour: dict[str, Any]) -> HostEpisodeBatch:
    steps, agents, actions = spec.max_steps, spec.n_agents, spec.actions
    return HostEpisodeBatch(
        obs=np.zeros((steps + 1, n, agents, *spec.obs_shape), np.float32),
        state=np.zeros((steps + 1, n, spec.state_size), np.float32),
        avail_actions=np.zeros((steps + 1, n, agents, actions.width), bool),
        actions=np.zeros((steps, n, *actions.shape), actions.dtype),
        reward=np.zeros((steps, n, agents), np.float32),
        terminated=np.zeros((steps, n), bool),
        running=np.zeros((steps, n), bool),
        behaviour={
            name: np.zeros((steps, n, *x.shape[1:]), x.dtype) for name, x in behaviour.items()
        },
        metrics={name: np.zeros(n) for name in spec.metric_names},
    )


def _write_timestep(batch: HostEpisodeBatch, t: int, e: int, timestep: Any) -> None:
    batch.obs[t, e] = timestep.obs
    batch.state[t, e] = timestep.state
    batch.avail_actions[t, e] = timestep.avail_actions


def _step(batch: HostEpisodeBatch, t: int, e: int, env: envs.HostEpisodes) -> bool:
    """Steps one environment; returns whether its episode is over."""
    timestep = env.step(batch.actions[t, e])
    _write_timestep(batch, t + 1, e, timestep)
    batch.reward[t, e] = timestep.reward
    batch.terminated[t, e] = timestep.terminated
    for name, values in batch.metrics.items():
        values[e] = timestep.metrics[name]
    return bool(timestep.terminated or timestep.truncated)


def round_entry_points(
    program: programs.Program, context: entry_points.RoundContext
) -> entry_points.EntryPoints:
    """Returns the entry points of a round, for `population.compile_programs`.

    Around a `HostEnv`, acting and learning are compiled; a compiled environment is part of the
    programs.
    """
    if not isinstance(program.env, envs.HostEnv):
        return entry_points.for_compiled_env(program, context)
    member = _Member(program, program.env)
    functions = {
        "init": context.jit(program.step.init),
        "begin": context.jit(member.begin, n_shared=1),
        "begin_evaluation": context.jit(member.begin_evaluation, n_shared=1),
        "act": context.jit(member.act, n_shared=1),
        "absorb": context.jit(member.absorb, n_shared=1, donate=(0, 1)),
    }
    state = context.eval_shape(functions["init"], context.seeds)
    start = context.eval_shape(functions["begin"], state, context.hparams, context.index)
    batch = _empty(program.spec, context.size * member.n_envs, program.behaviour)
    data = jax.tree.map(context.sharded, member.data(batch, context.size))
    empty_tally = train_step.Loop(member.learn).empty_tally
    tally = context.eval_shape(context.jit(empty_tally), state, context.hparams, data)
    observed = jax.tree.map(
        context.sharded, member.observe(batch, 0, batch.actions[0], context.size)
    )
    arguments = {
        "init": (context.seeds,),
        "begin": (state, context.hparams, context.index),
        "begin_evaluation": (state.key, context.index),
        "act": (state.learner.params, start.acting, start.carry, observed, context.index),
        "absorb": (state, tally, context.hparams, data, context.index),
    }

    def calls(compiled: dict[str, Any]) -> dict[str, Callable]:
        pool = HostEnvPool(member.env, program.behaviour)
        members = _Round(member, compiled, pool, context.size)
        return {"init": compiled["init"], "train": members.train, "evaluate": members.evaluate}

    return entry_points.EntryPoints(functions, arguments, state, tally, calls)


@record
class _WaveStart:
    """Start of W waves of episodes of a member.

    Attributes:
      acting: `key` and `exploration`, for `act`.
      seeds: i32[W, B], of each episode.
      carry: of the agents at the start of an episode.
    """

    acting: dict[str, Any]
    seeds: Array
    carry: Any


class _Member(NamedTuple):
    """Functions of one member to compile, and conversions of its data."""

    program: programs.Program
    env: envs.HostEnv

    @property
    def n_envs(self) -> int:
        """B."""
        return self.program.step.timeline.n_envs

    @property
    def waves(self) -> int:
        """W of an evaluation: episodes per environment."""
        return -(-self.program.eval_setup.n_envs // self.n_envs)

    def begin(
        self, state: train_step.TrainState, hparams: HParams, update_index: Array
    ) -> _WaveStart:
        """Starts the episodes of an update."""
        update = self.program.step.begin(state, hparams, update_index)
        return self._start(update.key_rollout, update.exploration, 1)

    def begin_evaluation(self, key: Array, index: Array) -> _WaveStart:
        """Starts the episodes of a greedy evaluation."""
        key = train_step.stream(key, train_step.EVAL, index)
        return self._start(key, self.program.step.algorithm.greedy, self.waves)

    def _start(self, key: Array, exploration: Any, waves: int) -> _WaveStart:
        key_seeds, key_act = jax.random.split(key)
        highest = jnp.iinfo(jnp.int32).max
        return _WaveStart(
            acting={"key": key_act, "exploration": jax.tree.map(jnp.asarray, dict(exploration))},
            seeds=jax.random.randint(key_seeds, (waves, self.n_envs), 0, highest),
            carry=self.program.step.algorithm.initial_carry(self.n_envs)["act"],
        )

    def act(
        self, params: Any, acting: dict[str, Any], carry: Any, observed: Observed, index: Array
    ) -> tuple[Any, Array, dict[str, Any]]:
        """Acts in all environments; `index` i32[] is unique among the steps of all waves."""
        bound = train_step.bind_policy(self.program.step.algorithm, params, acting["exploration"])
        return bound.act(carry, observed, jax.random.fold_in(acting["key"], index))

    def absorb(
        self,
        state: train_step.TrainState,
        tally: train_step.Tally,
        hparams: HParams,
        data: Any,
        update_index: Array,
    ) -> tuple[train_step.TrainState, train_step.Tally]:
        """Learns from the episodes, and adds the metrics to a tally."""
        state, metrics = self.learn(state, hparams, update_index, data)
        return state, train_step.accumulate(tally, metrics, update_index)

    def learn(
        self, state: train_step.TrainState, hparams: HParams, update_index: Array, data: Any
    ) -> tuple[train_step.TrainState, Metrics]:
        """Second half of an update; `data`: (trajectory, metrics of the episodes)."""
        trajectory, metrics = data
        update = self.program.step.begin(state, hparams, update_index)
        return self.program.step.absorb(state, trajectory, metrics, hparams, update)

    def data(self, batch: HostEpisodeBatch, size: int) -> tuple[Trajectory, Metrics]:
        """Converts episodes of `size` members to the data of `learn`, `[P, T, B, ...]`."""
        split = partial(_by_member, size=size, axis=1)
        n_steps, n = batch.running.shape
        reset = np.zeros((n_steps + 1, n), bool)
        reset[0] = True
        if self.program.eval_setup.recording.reward == "own":
            reward = batch.reward
        else:
            reward = np.asarray(envs.score(self.env, batch.reward))
        trajectory = Trajectory(
            obs=split(batch.obs),
            state=split(batch.state),
            avail_actions=split(batch.avail_actions),
            reset=split(reset),
            actions=split(batch.actions),
            reward=split(reward),
            terminated=split(batch.terminated),
            valid=split(batch.running),
            behaviour={name: split(values) for name, values in batch.behaviour.items()},
        )
        sums: dict[str, Any] = {
            f"rollout/{name}": (_sums(values, size), np.full(size, n / size, np.float32))
            for name, values in self.scores(batch).items()
        }
        valid = _sums(batch.running.sum(axis=0), size)
        sums["rollout/valid_fraction"] = (valid, np.full(size, n_steps * n / size, np.float32))
        return trajectory, sums

    def scores(self, batch: HostEpisodeBatch) -> dict[str, np.ndarray]:
        """Return, length and metrics of each episode, f64[E]."""
        return batch.scores(self.env, by_agent=not self.program.eval_setup.is_shared)

    def observe(
        self, batch: HostEpisodeBatch, t: int, prev_actions: np.ndarray, size: int
    ) -> Observed:
        """Returns the inputs of all agents at step t, `[P, B, ...]`."""
        split = partial(_by_member, size=size, axis=0)
        return Observed(
            obs=split(batch.obs[t]),
            prev_actions=split(prev_actions),
            reset=split(np.full(len(prev_actions), t == 0)),
            avail_actions=split(batch.avail_actions[t]),
        )


class _Round(NamedTuple):
    """`train` and `evaluate` of a round of `size` members."""

    member: _Member
    compiled: dict[str, Any]
    pool: HostEnvPool
    size: int

    def train(self, state: Any, tally: Any, hparams: Any, first: int, n: int) -> tuple[Any, Any]:
        """As `train_step.Loop.train`, for all members."""
        for update in range(int(first), int(first) + int(n)):
            index = np.int32(update)
            start = self.compiled["begin"](state, hparams, index)
            batch = self._play(state.learner.params, start, 0)
            data = self.member.data(batch, self.size)
            state, tally = self.compiled["absorb"](state, tally, hparams, data, index)
        return state, tally

    def evaluate(self, key: Any, params: Any, index: int) -> dict[str, np.ndarray]:
        """As `Program.evaluate`, for all members."""
        start = self.compiled["begin_evaluation"](key, index)
        waves = [
            self.member.scores(self._play(params, start, wave)) for wave in range(self.member.waves)
        ]
        n_episodes = self.member.program.eval_setup.n_envs
        scores = {
            name: np.concatenate([_by_member(w[name], self.size, 0) for w in waves], axis=1)
            for name in waves[0]
        }
        return {name: x[:, :n_episodes].mean(axis=1) for name, x in scores.items()}

    def _play(self, params: Any, start: _WaveStart, wave: int) -> HostEpisodeBatch:
        carry = start.carry
        offset = wave * self.member.program.spec.max_steps

        def act(t: int, batch: HostEpisodeBatch, prev_actions: np.ndarray) -> Any:
            nonlocal carry
            observed = self.member.observe(batch, t, prev_actions, self.size)
            carry, actions, stored = self.compiled["act"](
                params, start.acting, carry, observed, np.int32(offset + t)
            )
            flat = {name: np.asarray(x).reshape(-1, *x.shape[2:]) for name, x in stored.items()}
            return np.asarray(actions).reshape(prev_actions.shape), flat

        return self.pool.play(np.asarray(start.seeds)[:, wave].reshape(-1), act)


def _by_member(values: np.ndarray, size: int, axis: int) -> Any:
    """Splits the axis of all environments by member; the member axis comes first."""
    split = values.reshape(*values.shape[:axis], size, -1, *values.shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(split, axis, 0))


def _sums(values: np.ndarray, size: int) -> Any:
    """Sums over the environments of each member, f32[P]."""
    return values.reshape(size, -1).sum(axis=1).astype(np.float32)


def random_play(env: envs.HostEnv, episodes: int, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Plays uniformly random episodes; returns name -> mean over episodes, f[P], one per seed."""
    pool, actions = HostEnvPool(env), env.spec.actions

    def play(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)

        def act(t: int, batch: HostEpisodeBatch, prev_actions: np.ndarray) -> Any:
            if isinstance(actions, Box):
                uniform = rng.uniform(actions.low, actions.high, prev_actions.shape)
                return uniform.astype(np.float32), {}
            draws = rng.random(batch.avail_actions[t].shape) * batch.avail_actions[t]
            return draws.argmax(axis=-1).astype(prev_actions.dtype), {}

        batch = pool.play(rng.integers(np.iinfo(np.int32).max, size=episodes), act)
        scores = batch.scores(env, by_agent=env.team_reward is None)
        return {name: x.mean() for name, x in scores.items()}

    means = [play(seed) for seed in seeds]
    return {name: np.array([scores[name] for scores in means]) for name in means[0]}
