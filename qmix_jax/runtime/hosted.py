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

from qmix_jax import program as programs
from qmix_jax import rounds, train_step
from qmix_jax.core import schedules
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, EnvSpec, HParams, Metrics, Trajectory, record


class Episodes(NamedTuple):
    """Whole episodes of E environments, in numpy; `[T+1, E, ...]` and `[T, E, ...]`.

    After an episode's end its last entry repeats, and `running` bool[T, E] is False.
    """

    obs: np.ndarray
    state: np.ndarray
    avail_actions: np.ndarray
    actions: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    running: np.ndarray
    metrics: dict[str, np.ndarray]

    def scores(self) -> dict[str, np.ndarray]:
        """Return, length and metrics of each episode, f64[E]."""
        total = np.where(self.running, self.reward, 0.0).sum(axis=0, dtype=np.float64)
        return {"return": total, "length": self.running.sum(axis=0) * 1.0, **self.metrics}


class Stage:
    """Environments, made when first used, and closed when nobody needs them any more."""

    def __init__(self, spec: EnvSpec, make: Callable[[], envs.HostEnv]) -> None:
        """`make` makes one."""
        self._spec = spec
        self._make = make
        self._envs: list[envs.HostEnv] = []
        weakref.finalize(self, _close, self._envs)

    def play(self, seeds: np.ndarray, act: Callable[..., np.ndarray]) -> Episodes:
        """An episode from each seed, all side by side.

        Args:
          seeds: i[E].
          act: `(t, Episodes so far, prev_actions i32[E, N]) -> i32[E, N]`; it keeps the agents'
            memory itself.
        """
        while len(self._envs) < len(seeds):
            self._envs.append(self._make())
        filled = _empty(self._spec, len(seeds))
        for e, seed in enumerate(seeds):
            _enter(filled, 0, e, self._envs[e].reset(int(seed)))
        prev = np.full((len(seeds), self._spec.n_agents), -1, np.int32)
        over = np.zeros(len(seeds), bool)
        t = 0
        while t < self._spec.max_steps and not over.all():
            prev = act(t, filled, prev)
            filled.actions[t] = prev
            filled.running[t] = ~over
            for values in (filled.obs, filled.state, filled.avail_actions):
                values[t + 1] = values[t]
            for e in np.flatnonzero(~over).tolist():
                over[e] = _step(filled, t, e, self._envs[e])
            t += 1
        for values in (filled.obs, filled.state, filled.avail_actions):
            values[t + 1 :] = values[t]
        return filled


def _close(opened: list[envs.HostEnv]) -> None:
    for env in opened:
        with contextlib.suppress(Exception):  # the process may be ending
            env.close()


def _empty(spec: EnvSpec, n: int) -> Episodes:
    steps, agents = spec.max_steps, spec.n_agents
    return Episodes(
        obs=np.zeros((steps + 1, n, agents, *spec.obs_shape), np.float32),
        state=np.zeros((steps + 1, n, spec.state_size), np.float32),
        avail_actions=np.zeros((steps + 1, n, agents, spec.n_actions_max), bool),
        actions=np.zeros((steps, n, agents), np.int32),
        reward=np.zeros((steps, n), np.float32),
        terminated=np.zeros((steps, n), bool),
        running=np.zeros((steps, n), bool),
        metrics={name: np.zeros(n) for name in spec.metric_names},
    )


def _enter(filled: Episodes, t: int, e: int, timestep: Any) -> None:
    filled.obs[t, e] = timestep.obs
    filled.state[t, e] = timestep.state
    filled.avail_actions[t, e] = timestep.avail_actions


def _step(filled: Episodes, t: int, e: int, env: envs.HostEnv) -> bool:
    """Steps one environment; True where its episode is over."""
    timestep = env.step(filled.actions[t, e])
    _enter(filled, t + 1, e, timestep)
    filled.reward[t, e] = timestep.reward
    filled.terminated[t, e] = timestep.terminated
    for name, values in filled.metrics.items():
        values[e] = timestep.metrics[name]
    return bool(timestep.terminated or timestep.truncated)


def kit_of(program: programs.Program) -> Callable[[programs.Program, rounds.Bench], rounds.Kit]:
    """What `population.compile_programs` makes a program of: this, or all inside."""
    return rounds.inside if program.host is None else kit


def kit(program: programs.Program, bench: rounds.Bench) -> rounds.Kit:
    """Compiled acting and learning; the environment is stepped in Python between them."""
    assert program.host is not None
    member = _Member(program, program.host)
    functions = {
        "init": bench.program_of(program.step.init),
        "begin": bench.program_of(member.begin, n_shared=1),
        "begin_evaluation": bench.program_of(member.begin_evaluation, n_shared=1),
        "act": bench.program_of(member.act, n_shared=1),
        "learn": bench.program_of(member.learn, n_shared=1, donate=(0, 1)),
    }
    state = bench.shapes(functions["init"], bench.seed)
    begun = bench.shapes(functions["begin"], state.key, bench.numbers, bench.index)
    nothing = _empty(program.spec, bench.size * member.n_envs)
    data = jax.tree.map(bench.placed, member.data(nothing, bench.size))
    tally = bench.shapes(bench.program_of(member.empty_tally), state, bench.numbers, data)
    shown = jax.tree.map(bench.placed, member.shown(nothing, 0, nothing.actions[0], bench.size))
    arguments = {
        "init": (bench.seed,),
        "begin": (state.key, bench.numbers, bench.index),
        "begin_evaluation": (state.key, bench.index),
        "act": (state.learner.params, begun.how, begun.carry, shown, bench.index),
        "learn": (state, tally, bench.numbers, data, bench.index),
    }

    def calls(compiled: dict[str, Any]) -> dict[str, Callable]:
        one = _Round(member, compiled, Stage(program.spec, member.host.make), bench.size)
        return {"init": compiled["init"], "train": one.train, "evaluate": one.evaluate}

    return rounds.Kit(functions, arguments, state, tally, calls)


@record
class _Begun:
    """What a member draws before it plays: `how` it acts (`key` and `epsilon`), a seed i32[W, B] of
    each environment in each of W waves, and the agents' first carry.
    """

    how: dict[str, Array]
    seeds: Array
    carry: Any


@record
class _Shown:
    """What agents act on: `TimeStep` fields [B, ...] and their last actions i32[B, N]."""

    obs: Array
    avail_actions: Array
    prev_actions: Array


class _Member(NamedTuple):
    """One member's functions, to be compiled, and the form of its data."""

    program: programs.Program
    host: programs.Host

    @property
    def n_envs(self) -> int:
        """B."""
        return self.program.parts.timeline.n_envs

    @property
    def waves(self) -> int:
        """Times that the environments play in an evaluation."""
        return -(-self.host.episodes // self.n_envs)

    def begin(self, key: Array, hparams: HParams, update_index: Array) -> _Begun:
        """Before an update."""
        timeline = self.program.parts.timeline
        event = jax.random.split(timeline.event(key, update_index))[0]
        epsilon = schedules.linear(hparams.epsilon, timeline.clock(update_index).env_steps)
        return self._draw(event, epsilon, 1)

    def begin_evaluation(self, key: Array, index: Array) -> _Begun:
        """Before a greedy evaluation."""
        event = train_step.stream(key, train_step.EVAL, index)
        return self._draw(event, jnp.zeros(()), self.waves)

    def _draw(self, key: Array, epsilon: Array, waves: int) -> _Begun:
        key_seeds, key_act = jax.random.split(key)
        most = jnp.iinfo(jnp.int32).max
        return _Begun(
            how={"key": key_act, "epsilon": epsilon},
            seeds=jax.random.randint(key_seeds, (waves, self.n_envs), 0, most),
            carry=self.host.initial_carry(self.n_envs),
        )

    def act(
        self, params: Any, how: dict[str, Array], carry: Any, shown: _Shown, index: Array
    ) -> tuple[Any, Array]:
        """Actions of all environments; `index` i32[] differs from step to step of all waves."""
        first = jnp.full((self.n_envs,), index % self.program.spec.max_steps == 0)
        return self.program.act(
            params,
            carry,
            shown.obs,
            shown.prev_actions,
            first,
            shown.avail_actions,
            how["epsilon"],
            jax.random.fold_in(how["key"], index),
        )

    def learn(
        self,
        state: train_step.TrainState,
        tally: train_step.Tally,
        hparams: HParams,
        data: Any,
        update_index: Array,
    ) -> tuple[train_step.TrainState, train_step.Tally]:
        """`data`: (Trajectory, what the episodes came to)."""
        state, metrics = self._absorb(state, hparams, data, update_index)
        return state, train_step.add_up(tally, metrics, update_index)

    def empty_tally(
        self, state: train_step.TrainState, hparams: HParams, data: Any
    ) -> train_step.Tally:
        """Zeros."""
        zero = jnp.zeros((), jnp.int32)
        shapes = jax.eval_shape(lambda *a: self._absorb(*a)[1], state, hparams, data, zero)
        never = {name: jnp.full((), train_step.NEVER, jnp.int32) for name in train_step.WATCHED}
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return train_step.Tally(metrics=zeros, first_nonfinite=never)

    def _absorb(
        self, state: train_step.TrainState, hparams: HParams, data: Any, update_index: Array
    ) -> tuple[train_step.TrainState, Metrics]:
        timeline = self.program.parts.timeline
        clock = timeline.clock(update_index)
        key = jax.random.split(timeline.event(state.key, update_index))[1]
        trajectory, seen = data
        state, metrics = self.program.step.absorb(state, trajectory, hparams, clock, key)
        epsilon = schedules.linear(hparams.epsilon, clock.env_steps)
        return state, {**seen, **metrics, "train/epsilon": (epsilon, jnp.ones(()))}

    def data(self, played: Episodes, size: int) -> tuple[Trajectory, Metrics]:
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
            reward=split(played.reward),
            terminated=split(played.terminated),
            valid=split(played.running),
        )
        sums: dict[str, Any] = {
            f"rollout/{name}": (_sums(values, size), np.full(size, n / size, np.float32))
            for name, values in played.scores().items()
        }
        valid = _sums(played.running.sum(axis=0), size)
        sums["rollout/valid_fraction"] = (valid, np.full(size, n_steps * n / size, np.float32))
        return trajectory, sums

    def shown(self, played: Episodes, t: int, prev_actions: np.ndarray, size: int) -> _Shown:
        """What the agents of a round see at step t, `[P, B, ...]`."""
        split = partial(_by_member, size=size, axis=0)
        return _Shown(
            obs=split(played.obs[t]),
            avail_actions=split(played.avail_actions[t]),
            prev_actions=split(prev_actions),
        )


class _Round(NamedTuple):
    """`train` and `evaluate` of a round of members."""

    member: _Member
    compiled: dict[str, Any]
    stage: Stage
    size: int

    def train(self, state: Any, tally: Any, hparams: Any, first: int, n: int) -> tuple[Any, Any]:
        """As `TrainStep.train`, of every member."""
        for update in range(int(first), int(first) + int(n)):
            index = np.int32(update)
            begun = self.compiled["begin"](state.key, hparams, index)
            played = self._play(state.learner.params, begun, 0)
            data = self.member.data(played, self.size)
            state, tally = self.compiled["learn"](state, tally, hparams, data, index)
        return state, tally

    def evaluate(self, key: Any, params: Any, index: int) -> dict[str, np.ndarray]:
        """As `Program.evaluate`, of every member."""
        begun = self.compiled["begin_evaluation"](key, index)
        waves = [self._play(params, begun, wave).scores() for wave in range(self.member.waves)]
        episodes = self.member.host.episodes
        found = {
            name: np.concatenate([_by_member(w[name], self.size, 0) for w in waves], axis=1)
            for name in waves[0]
        }
        return {name: x[:, :episodes].mean(axis=1) for name, x in found.items()}

    def _play(self, params: Any, begun: _Begun, wave: int) -> Episodes:
        carry = begun.carry
        offset = wave * self.member.program.spec.max_steps

        def act(t: int, filled: Episodes, prev_actions: np.ndarray) -> np.ndarray:
            nonlocal carry
            shown = self.member.shown(filled, t, prev_actions, self.size)
            carry, actions = self.compiled["act"](
                params, begun.how, carry, shown, np.int32(offset + t)
            )
            return np.asarray(actions).reshape(prev_actions.shape)

        return self.stage.play(np.asarray(begun.seeds)[:, wave].reshape(-1), act)


def _by_member(values: np.ndarray, size: int, axis: int) -> Any:
    """Splits the axis of all environments into members, which come first."""
    split = values.reshape(*values.shape[:axis], size, -1, *values.shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(split, axis, 0))


def _sums(values: np.ndarray, size: int) -> Any:
    """Sum over the environments of each member, f32[P]."""
    return values.reshape(size, -1).sum(axis=1).astype(np.float32)


def random_play(
    spec: EnvSpec, make: Callable[[], envs.HostEnv], episodes: int, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Means over episodes of uniformly random play, f[P]: one for each seed."""
    stage = Stage(spec, make)

    def run(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)

        def act(t: int, filled: Episodes, prev_actions: np.ndarray) -> np.ndarray:
            drawn = rng.random(filled.avail_actions[t].shape) * filled.avail_actions[t]
            return drawn.argmax(axis=-1).astype(prev_actions.dtype)

        return stage.play(rng.integers(0, 2**31 - 1, episodes), act).scores()

    found = [run(seed) for seed in seeds]
    return {name: np.array([scores[name].mean() for scores in found]) for name in found[0]}
