"""Populations whose environments are stepped in Python; acting and learning stay compiled.

A member plays one whole episode in each of its `n_envs` environments, then learns from them, as the
`episode` collector does inside a program. Members of a round act together: one compiled call a
step. Each episode starts from a seed of the member's own stream, so nothing but arrays stays alive
between two updates.
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
    """Whole episodes of E environments, in NumPy; `[T+1, E, ...]` and `[T, E, ...]`.

    After an episode's end its last entry repeats, and `running` bool[T, E] is False. `reward` is
    each agent's own, f32[T, E, N]; `behaviour` is what acting added.
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
        """Return, length and metrics of episodes, f64[E]; `by_agent`: also each agent's return."""
        total = np.where(self.running, envs.score(env, self.reward), 0.0)
        found = {
            "return": total.sum(axis=0, dtype=np.float64),
            "length": self.running.sum(axis=0) * 1.0,
            **self.metrics,
        }
        if by_agent:
            own = np.where(self.running[..., None], self.reward, 0.0).sum(axis=0, dtype=np.float64)
            found |= {f"return/{name}": own[:, i] for i, name in enumerate(env.spec.agent_names)}
        return found


class HostEnvPool:
    """Environments, made when first used, and closed when nobody needs them any more."""

    def __init__(self, env: envs.HostEnv, behaviour: dict[str, Any] | None = None) -> None:
        """`behaviour`: name -> shape of [B, ...] for B = 1, what acting adds at each step."""
        self._env = env
        self._spec = env.spec
        self._behaviour = behaviour or {}
        self._episodes: list[envs.HostEpisodes] = []
        weakref.finalize(self, _close, self._episodes)

    def play(
        self, seeds: np.ndarray, act: Callable[..., tuple[np.ndarray, dict[str, Any]]]
    ) -> HostEpisodeBatch:
        """An episode from each seed, all side by side.

        Args:
          seeds: i[E].
          act: `(t, HostEpisodeBatch so far, prev_actions) -> (actions, behaviour)`, actions
            [E, N, ...]; it keeps the agents' carry itself.
        """
        while len(self._episodes) < len(seeds):
            self._episodes.append(self._env.start())
        filled = _empty(self._spec, len(seeds), self._behaviour)
        for e, seed in enumerate(seeds):
            _enter(filled, 0, e, self._episodes[e].reset(int(seed)))
        none = np.asarray(self._spec.actions.none())
        prev = np.broadcast_to(none, (len(seeds), *none.shape))
        over = np.zeros(len(seeds), bool)
        t = 0
        while t < self._spec.max_steps and not over.all():
            prev, remembered = act(t, filled, prev)
            filled.actions[t] = prev
            for name, values in remembered.items():
                filled.behaviour[name][t] = values
            filled.running[t] = ~over
            for values in (filled.obs, filled.state, filled.avail_actions):
                values[t + 1] = values[t]
            for e in np.flatnonzero(~over).tolist():
                over[e] = _step(filled, t, e, self._episodes[e])
            t += 1
        for values in (filled.obs, filled.state, filled.avail_actions):
            values[t + 1 :] = values[t]
        return filled


def _close(opened: list[envs.HostEpisodes]) -> None:
    for episodes in opened:
        with contextlib.suppress(Exception):  # the process may be ending
            episodes.close()


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


def _enter(filled: HostEpisodeBatch, t: int, e: int, timestep: Any) -> None:
    filled.obs[t, e] = timestep.obs
    filled.state[t, e] = timestep.state
    filled.avail_actions[t, e] = timestep.avail_actions


def _step(filled: HostEpisodeBatch, t: int, e: int, env: envs.HostEpisodes) -> bool:
    """Steps one environment; True where its episode is over."""
    timestep = env.step(filled.actions[t, e])
    _enter(filled, t + 1, e, timestep)
    filled.reward[t, e] = timestep.reward
    filled.terminated[t, e] = timestep.terminated
    for name, values in filled.metrics.items():
        values[e] = timestep.metrics[name]
    return bool(timestep.terminated or timestep.truncated)


def kit_of(
    program: programs.Program,
) -> Callable[[programs.Program, entry_points.RoundContext], entry_points.EntryPoints]:
    """What `population.compile_programs` makes a program of: this, or all inside."""
    return kit if isinstance(program.env, envs.HostEnv) else entry_points.for_compiled_env


def kit(program: programs.Program, bench: entry_points.RoundContext) -> entry_points.EntryPoints:
    """Compiled acting and learning; the environment is stepped in Python between them."""
    assert isinstance(program.env, envs.HostEnv)
    member = _Member(program, program.env)
    functions = {
        "init": bench.jit(program.step.init),
        "begin": bench.jit(member.begin, n_shared=1),
        "begin_evaluation": bench.jit(member.begin_evaluation, n_shared=1),
        "act": bench.jit(member.act, n_shared=1),
        "absorb": bench.jit(member.absorb, n_shared=1, donate=(0, 1)),
    }
    state = bench.eval_shape(functions["init"], bench.seeds)
    begun = bench.eval_shape(functions["begin"], state, bench.hparams, bench.index)
    nothing = _empty(program.spec, bench.size * member.n_envs, member.behaviour)
    data = jax.tree.map(bench.sharded, member.data(nothing, bench.size))
    loop = train_step.Loop(member.absorbed)
    tally = bench.eval_shape(bench.jit(loop.empty_tally), state, bench.hparams, data)
    shown = jax.tree.map(bench.sharded, member.shown(nothing, 0, nothing.actions[0], bench.size))
    arguments = {
        "init": (bench.seeds,),
        "begin": (state, bench.hparams, bench.index),
        "begin_evaluation": (state.key, bench.index),
        "act": (state.learner.params, begun.how, begun.carry, shown, bench.index),
        "absorb": (state, tally, bench.hparams, data, bench.index),
    }

    def calls(compiled: dict[str, Any]) -> dict[str, Callable]:
        stage = HostEnvPool(member.env, member.behaviour)
        one = _Round(member, compiled, stage, bench.size)
        return {"init": compiled["init"], "train": one.train, "evaluate": one.evaluate}

    return entry_points.EntryPoints(functions, arguments, state, tally, calls)


@record
class _WaveStart:
    """What a member draws before it plays: `how` it acts (`key` and `exploration`), a seed i32[W,
    B] of each environment in each of W waves, and the agents' first carry.
    """

    how: dict[str, Any]
    seeds: Array
    carry: Any


class _Member(NamedTuple):
    """One member's functions, to be compiled, and the form of its data."""

    program: programs.Program
    env: envs.HostEnv

    @property
    def n_envs(self) -> int:
        """B."""
        return self.program.step.timeline.n_envs

    @property
    def waves(self) -> int:
        """Times that the environments play in an evaluation."""
        return -(-self.program.eval_setup.n_envs // self.n_envs)

    @property
    def behaviour(self) -> dict[str, Any]:
        """Shapes of what acting adds."""
        return self.program.behaviour

    def begin(
        self, state: train_step.TrainState, hparams: HParams, update_index: Array
    ) -> _WaveStart:
        """Before an update."""
        begun = self.program.step.begin(state, hparams, update_index)
        return self._draw(begun.key_rollout, begun.exploration, 1)

    def begin_evaluation(self, key: Array, index: Array) -> _WaveStart:
        """Before a greedy evaluation."""
        event = train_step.stream(key, train_step.EVAL, index)
        return self._draw(event, self.program.step.algorithm.greedy, self.waves)

    def _draw(self, key: Array, exploration: Any, waves: int) -> _WaveStart:
        key_seeds, key_act = jax.random.split(key)
        most = jnp.iinfo(jnp.int32).max
        return _WaveStart(
            how={"key": key_act, "exploration": jax.tree.map(jnp.asarray, dict(exploration))},
            seeds=jax.random.randint(key_seeds, (waves, self.n_envs), 0, most),
            carry=self.program.step.algorithm.initial_carry(self.n_envs)["act"],
        )

    def act(
        self, params: Any, how: dict[str, Any], carry: Any, shown: Observed, index: Array
    ) -> tuple[Any, Array, dict[str, Any]]:
        """Actions of all environments; `index` i32[] differs from step to step of all waves."""
        behaviour = train_step.bind_policy(self.program.step.algorithm, params, how["exploration"])
        return behaviour.act(carry, shown, jax.random.fold_in(how["key"], index))

    def absorb(
        self,
        state: train_step.TrainState,
        tally: train_step.Tally,
        hparams: HParams,
        data: Any,
        update_index: Array,
    ) -> tuple[train_step.TrainState, train_step.Tally]:
        """`absorbed`, whose metrics are added up."""
        state, metrics = self.absorbed(state, hparams, update_index, data)
        return state, train_step.accumulate(tally, metrics, update_index)

    def absorbed(
        self, state: train_step.TrainState, hparams: HParams, update_index: Array, data: Any
    ) -> tuple[train_step.TrainState, Metrics]:
        """The second half of an update; `data`: (Trajectory, metrics of the episodes)."""
        trajectory, seen = data
        begun = self.program.step.begin(state, hparams, update_index)
        return self.program.step.absorb(state, trajectory, seen, hparams, begun)

    def data(self, played: HostEpisodeBatch, size: int) -> tuple[Trajectory, Metrics]:
        """Episodes of a round's `size` members as `learn` takes them, `[P, T, B, ...]`."""
        split = partial(_by_member, size=size, axis=1)
        n_steps, n = played.running.shape
        reset = np.zeros((n_steps + 1, n), bool)
        reset[0] = True
        trajectory = Trajectory(
            obs=split(played.obs),
            state=split(played.state),
            avail_actions=split(played.avail_actions),
            reset=split(reset),
            actions=split(played.actions),
            reward=split(self._reward(played)),
            terminated=split(played.terminated),
            valid=split(played.running),
            behaviour={name: split(values) for name, values in played.behaviour.items()},
        )
        sums: dict[str, Any] = {
            f"rollout/{name}": (_sums(values, size), np.full(size, n / size, np.float32))
            for name, values in self.scores(played).items()
        }
        valid = _sums(played.running.sum(axis=0), size)
        sums["rollout/valid_fraction"] = (valid, np.full(size, n_steps * n / size, np.float32))
        return trajectory, sums

    def scores(self, played: HostEpisodeBatch) -> dict[str, np.ndarray]:
        """Return, length and metrics of each episode."""
        return played.scores(self.env, by_agent=not self.program.eval_setup.is_shared)

    def _reward(self, played: HostEpisodeBatch) -> np.ndarray:
        if self.program.eval_setup.recording.reward == "own":
            return played.reward
        return np.asarray(envs.score(self.env, played.reward))

    def shown(
        self, played: HostEpisodeBatch, t: int, prev_actions: np.ndarray, size: int
    ) -> Observed:
        """What the agents of a round see at step t, `[P, B, ...]`."""
        split = partial(_by_member, size=size, axis=0)
        first = np.full(len(prev_actions), t == 0)
        return Observed(
            obs=split(played.obs[t]),
            prev_actions=split(prev_actions),
            reset=split(first),
            avail_actions=split(played.avail_actions[t]),
        )


class _Round(NamedTuple):
    """`train` and `evaluate` of a round of members."""

    member: _Member
    compiled: dict[str, Any]
    stage: HostEnvPool
    size: int

    def train(self, state: Any, tally: Any, hparams: Any, first: int, n: int) -> tuple[Any, Any]:
        """As `train_step.Loop.train`, of every member."""
        for update in range(int(first), int(first) + int(n)):
            index = np.int32(update)
            begun = self.compiled["begin"](state, hparams, index)
            played = self._play(state.learner.params, begun, 0)
            data = self.member.data(played, self.size)
            state, tally = self.compiled["absorb"](state, tally, hparams, data, index)
        return state, tally

    def evaluate(self, key: Any, params: Any, index: int) -> dict[str, np.ndarray]:
        """As `Program.evaluate`, of every member."""
        begun = self.compiled["begin_evaluation"](key, index)
        played = (self._play(params, begun, wave) for wave in range(self.member.waves))
        waves = [self.member.scores(episodes) for episodes in played]
        episodes = self.member.program.eval_setup.n_envs
        found = {
            name: np.concatenate([_by_member(w[name], self.size, 0) for w in waves], axis=1)
            for name in waves[0]
        }
        return {name: x[:, :episodes].mean(axis=1) for name, x in found.items()}

    def _play(self, params: Any, begun: _WaveStart, wave: int) -> HostEpisodeBatch:
        carry = begun.carry
        offset = wave * self.member.program.spec.max_steps

        def act(t: int, filled: HostEpisodeBatch, prev_actions: np.ndarray) -> Any:
            nonlocal carry
            shown = self.member.shown(filled, t, prev_actions, self.size)
            carry, actions, remembered = self.compiled["act"](
                params, begun.how, carry, shown, np.int32(offset + t)
            )
            flat = {name: np.asarray(x).reshape(-1, *x.shape[2:]) for name, x in remembered.items()}
            return np.asarray(actions).reshape(prev_actions.shape), flat

        return self.stage.play(np.asarray(begun.seeds)[:, wave].reshape(-1), act)


def _by_member(values: np.ndarray, size: int, axis: int) -> Any:
    """Splits the axis of all environments into members, which come first."""
    split = values.reshape(*values.shape[:axis], size, -1, *values.shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(split, axis, 0))


def _sums(values: np.ndarray, size: int) -> Any:
    """Sum over the environments of each member, f32[P]."""
    return values.reshape(size, -1).sum(axis=1).astype(np.float32)


def random_play(env: envs.HostEnv, episodes: int, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Means over episodes of uniformly random play, f[P]: one for each seed."""
    stage, by_agent = HostEnvPool(env), env.team_reward is None

    def run(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)

        def act(t: int, filled: HostEpisodeBatch, prev_actions: np.ndarray) -> Any:
            if isinstance(env.spec.actions, Box):
                box = env.spec.actions
                return rng.uniform(box.low, box.high, prev_actions.shape).astype(np.float32), {}
            drawn = rng.random(filled.avail_actions[t].shape) * filled.avail_actions[t]
            return drawn.argmax(axis=-1).astype(prev_actions.dtype), {}

        played = stage.play(rng.integers(np.iinfo(np.int32).max, size=episodes), act)
        return {name: x.mean() for name, x in played.scores(env, by_agent).items()}

    found = [run(seed) for seed in seeds]
    return {name: np.array([one[name] for one in found]) for name in found[0]}
