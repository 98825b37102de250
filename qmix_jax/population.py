"""Runs a population's members on devices: the only vmap over members, the only jit, the only mesh.

Members are independent. One call of a compiled program runs a *round* of members:
`len(devices) * per_device` of them, `per_device` vmapped on each device. `batching=map` puts one
member on each device and uses as many rounds as needed: nothing is batched, no member waits for
another's control flow, and each member's arrays are donated. `batching=vmap` uses a single round.
The last round is padded with copies of the last member, whose results are dropped.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qmix_jax import entry_points, host_arrays, memory, train_step
from qmix_jax import program as programs
from qmix_jax.types import Array, Device, HParams

REPLAY = "state/replay/"
"""Prefix of the names of the replay's arrays in a snapshot."""

_AXIS = "members"
Tree = Any
Rounds = tuple[Tree, ...]
"""One tree per round, each with a leading axis of `Layout.size` members."""


class Layout(NamedTuple):
    """Assigns members to devices: `rounds` rounds of `len(devices) * per_device` members.

    `batching` is `map` or `vmap`, with `auto` resolved.
    """

    n_members: int
    devices: tuple[Device, ...]
    per_device: int
    rounds: int
    batching: str

    @property
    def size(self) -> int:
        """Members of one round."""
        return len(self.devices) * self.per_device

    @property
    def padding(self) -> int:
        """Number of padding members."""
        return self.rounds * self.size - self.n_members


class Metrics(NamedTuple):
    """Host copy of a tally.

    Attributes:
      totals: name -> (sum f64[P], count f64[P]).
      first_nonfinite: watched metric -> first update i64[P] in which it was not finite,
        `train_step.NEVER` if it always was.
    """

    totals: dict[str, tuple[np.ndarray, np.ndarray]]
    first_nonfinite: dict[str, np.ndarray]


class Population:
    """A compiled population; its states and tallies are `Rounds` that the caller carries.

    Attributes:
      layout: members on devices.
      compile_seconds: program -> seconds; programs compile in parallel.
      metric_names: names in a tally.
      parameter_counts: network -> number of parameters of one member.
      memory: bytes of one member.
    """

    def __init__(
        self, programs: "_CompiledPrograms", seeds: Sequence[int], hparams: Sequence[HParams]
    ) -> None:
        self._programs = programs
        size = programs.layout.size
        self.layout = programs.layout._replace(n_members=len(seeds), rounds=-(-len(seeds) // size))
        self.compile_seconds = programs.seconds
        self.metric_names = tuple(programs.tally.metrics)
        self.memory = programs.memory()
        self.parameter_counts = {
            name: sum(leaf.size // size for leaf in jax.tree.leaves(tree))
            for name, tree in programs.state.learner.params.items()
        }
        self._seeds = _stack_rounds(self.layout, programs.sharding, [np.int32(s) for s in seeds])
        self._hparams = _stack_rounds(self.layout, programs.sharding, hparams)

    def init(self) -> Rounds:
        """Returns the initial states."""
        return tuple(self._programs.calls["init"](seed) for seed in self._seeds)

    def empty_tallies(self) -> Rounds:
        """Returns tallies of zeros."""

        def empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            fill = train_step.NEVER if np.issubdtype(leaf.dtype, np.integer) else 0
            return jax.device_put(np.full(leaf.shape, fill, leaf.dtype), leaf.sharding)

        return tuple(jax.tree.map(empty, self._programs.tally) for _ in range(self.layout.rounds))

    def train(
        self, states: Rounds, tallies: Rounds, first_update: int, n_updates: int
    ) -> tuple[Rounds, Rounds]:
        """Runs updates; negative updates are the warm-up. Donates its inputs.

        Returns:
          (states, tallies) after the updates.
        """
        span = (np.int32(first_update), np.int32(n_updates))
        results = [
            self._programs.calls["train"](state, tally, hparams, *span)
            for state, tally, hparams in zip(states, tallies, self._hparams, strict=True)
        ]
        return tuple(state for state, _ in results), tuple(tally for _, tally in results)

    def evaluate(self, states: Rounds, index: int) -> dict[str, np.ndarray]:
        """Returns name -> f32[P], means over greedy episodes; `index` seeds them."""
        evaluate = self._programs.calls["evaluate"]
        results = [evaluate(state.key, state.learner.params, np.int32(index)) for state in states]
        return _gather(results, self.layout)

    def parameters(self, states: Rounds) -> Tree:
        """Returns the online parameters, a tree of NumPy arrays [P, ...]."""
        return _gather([state.learner.params for state in states], self.layout)

    def metrics(self, tallies: Rounds) -> Metrics:
        """Copies the tallies to the host."""
        tally = _gather(tallies, self.layout)
        totals = {
            name: (total.astype(np.float64), count.astype(np.float64))
            for name, (total, count) in tally.metrics.items()
        }
        firsts = {name: first.astype(np.int64) for name, first in tally.first_nonfinite.items()}
        return Metrics(totals=totals, first_nonfinite=firsts)

    def rebind(self, seeds: Sequence[int], hparams: Sequence[HParams]) -> "Population":
        """Returns a population of other members that uses the same compiled programs."""
        return Population(self._programs, seeds, hparams)

    def transfer(
        self, states: Rounds, tallies: Rounds, members: Sequence[int]
    ) -> tuple[Rounds, Rounds]:
        """Moves members of another population into this one, unchanged.

        Args:
          states, tallies: of the other population.
          members: indices in the other population, one per member of this one.
        Returns:
          (states, tallies) of this population.
        """
        programs, n_rounds = self._programs, self.layout.rounds
        pairs = (states, programs.state), (tallies, programs.tally)
        states, tallies = (
            host_arrays.select_members(rounds, members, template, n_rounds, programs.sharding)
            for rounds, template in pairs
        )
        return states, tallies

    def snapshot(self, states: Rounds, tallies: Rounds, n_stored: int) -> dict[str, np.ndarray]:
        """Copies states and tallies to the host, name -> NumPy array [P, ...].

        Of the replay, only the first `n_stored` sequences are included; 0 omits it.
        """
        n_members = self.layout.n_members
        state = host_arrays.to_host(states, n_members, {"replay/": n_stored})
        tally = host_arrays.to_host(tallies, n_members, {})
        return {
            **{f"state/{name}": values for name, values in state.items()},
            **{f"tally/{name}": values for name, values in tally.items()},
        }

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raises: ValueError if the snapshot belongs to another program."""
        host_arrays.check(_with_prefix("state/", arrays), self._programs.state)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> tuple[Rounds, Rounds]:
        """Returns (states, tallies) of a snapshot, which may come from other devices.

        Raises: ValueError if the snapshot belongs to another program.
        """
        programs = self._programs
        templates = {"state/": programs.state, "tally/": programs.tally}
        states, tallies = (
            host_arrays.to_devices(
                _with_prefix(prefix, arrays), template, self.layout.rounds, programs.sharding
            )
            for prefix, template in templates.items()
        )
        return states, tallies


class _CompiledPrograms(NamedTuple):
    """Compiled programs of one round, for any members; `state` and `tally` are their shapes."""

    layout: Layout
    sharding: NamedSharding
    executables: dict[str, Any]
    calls: dict[str, Callable]
    seconds: dict[str, float]
    state: Tree
    tally: Tree

    def memory(self) -> memory.MemoryEstimate:
        """Returns the bytes of one member."""
        analyses = [executable.memory_analysis() for executable in self.executables.values()]
        temporaries = max(analysis.temp_size_in_bytes for analysis in analyses)
        return memory.MemoryEstimate(
            parts=memory.parts(self.state, self.layout.size),
            temporaries=temporaries // self.layout.per_device,
        )


def make_layout(
    n_members: int,
    devices: Sequence[Device],
    batching: Literal["map", "vmap", "auto"],
    max_members: int | None = None,
) -> Layout:
    """Assigns members to devices. `auto` is `map` on CPUs, where batched small products are slower,
    else `vmap`.

    Args:
      max_members: members that fit into memory at once, None for any number; the layout then covers
        the first members, and the others follow by `Population.rebind`.
    """
    resident = n_members if max_members is None else min(n_members, max_members)
    used = tuple(devices[:resident])
    if batching == "auto":
        batching = "map" if used[0].platform == "cpu" else "vmap"
    # Full rounds only, so that no padding member takes the memory of a real one.
    quota = -(-resident // len(used)) if resident == n_members else resident // len(used)
    per_device, rounds = (1, quota) if batching == "map" else (quota, 1)
    return Layout(min(n_members, quota * len(used)), used, per_device, rounds, batching)


def compile_programs(
    program: programs.Program,
    layout: Layout,
    seeds: Sequence[int],
    hparams: Sequence[HParams],
    precision: str,
    clock: Callable[[], float],
    make_entry_points: Callable[
        [programs.Program, entry_points.RoundContext], entry_points.EntryPoints
    ] = entry_points.for_compiled_env,
) -> Population:
    """Lowers and compiles `init`, `train` (also the warm-up) and `evaluate` for one round.

    Args:
      program: one member's functions.
      layout: from `make_layout`.
      seeds: one per member.
      hparams: one per member, scalars.
      precision: matrix-product precision, as `jax.default_matmul_precision`.
      clock: returns seconds, to time each compilation.
      make_entry_points: returns the functions to compile; by default the environment is part of
        the compiled programs.
    """
    mesh = Mesh(np.asarray(layout.devices), (_AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec(_AXIS))

    def sharded(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def jit(fn: Callable, n_shared: int = 0, donate: tuple[int, ...] = ()) -> Callable:
        return _jit_round(fn, mesh, layout.per_device, n_shared, donate)

    context = entry_points.RoundContext(
        jit=jit,
        eval_shape=lambda fn, *args: jax.tree.map(sharded, jax.eval_shape(fn, *args)),
        sharded=sharded,
        seeds=_stack_rounds(layout, sharding, [np.int32(seeds[0])])[0],
        hparams=_stack_rounds(layout, sharding, hparams[:1])[0],
        index=jax.ShapeDtypeStruct((), np.int32),
        size=layout.size,
    )
    # With bfloat16 the program casts the networks; nothing else has products worth rounding.
    with jax.default_matmul_precision("default" if precision == "bfloat16" else precision):
        entries = make_entry_points(program, context)
        executables, seconds = _compile(entries, layout.devices[0].platform, clock)
    compiled = _CompiledPrograms(
        layout=layout,
        sharding=sharding,
        executables=executables,
        calls=entries.calls(executables),
        seconds=seconds,
        state=entries.state,
        tally=entries.tally,
    )
    return Population(compiled, seeds, hparams)


def compiler_options(platform: str) -> dict[str, int] | None:
    """Returns XLA options: on a CPU, less effort for machine code.

    Measured with jax 0.10.2 and 0.11.2: the SMAX training program compiles in 7.4 instead of 9.0 s
    and runs as fast (134 against 140 ms per update), since matrix products are library calls.
    """
    return {"xla_backend_optimization_level": 1} if platform == "cpu" else None


def map_seeds(run: Callable[[Array], Tree], seeds: Sequence[int]) -> Tree:
    """Applies `run(key)` to each seed sequentially on one device; NumPy leaves [P, ...]."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    options = compiler_options(jax.default_backend())
    mapped = jax.jit(lambda k: jax.lax.map(run, k), compiler_options=options)
    return jax.tree.map(np.asarray, mapped(keys))


def map_members(run: Callable[[Tree], Tree], params: Tree) -> Tree:
    """Applies `run(params)` to each member of parameters [P, ...]; NumPy leaves [P, ...]."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(params))


def _with_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names have the prefix, without it."""
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _stack_rounds(layout: Layout, sharding: NamedSharding, members: Sequence[Tree]) -> Rounds:
    """Stacks one tree per member into rounds on the devices, padding with the last member."""
    padded = [*members, *[members[-1]] * (layout.rounds * layout.size - len(members))]
    rounds = [padded[i : i + layout.size] for i in range(0, len(padded), layout.size)]
    stacked = (jax.tree.map(lambda *leaves: np.stack(leaves), *trees) for trees in rounds)
    return tuple(jax.device_put(tree, sharding) for tree in stacked)


def _gather(rounds: Sequence[Tree], layout: Layout) -> Tree:
    """Copies rounds to one host tree [P, ...], without the padding."""
    return jax.tree.map(
        lambda *leaves: np.concatenate([np.asarray(x) for x in leaves])[: layout.n_members], *rounds
    )


def _jit_round(
    fn: Callable, mesh: Mesh, per_device: int, n_shared: int, donate: tuple[int, ...]
) -> Callable:
    """Jits `fn` of one member for a round; its last `n_shared` arguments have no member axis."""

    def on_device(*args: Tree) -> Tree:
        members, shared = args[: len(args) - n_shared], args[len(args) - n_shared :]
        if per_device > 1:
            axes = (*[0] * len(members), *[None] * n_shared)
            return jax.vmap(fn, in_axes=axes)(*members, *shared)
        single = jax.tree.map(lambda x: x[0], members)
        return jax.tree.map(lambda x: x[None], fn(*single, *shared))

    def run_round(*args: Tree) -> Tree:
        member, shared = PartitionSpec(_AXIS), PartitionSpec()
        specs = (*[member] * (len(args) - n_shared), *[shared] * n_shared)
        # check_vma: loop carries start from constants, which the checker takes for replicated.
        mapped = jax.shard_map(
            on_device, mesh=mesh, in_specs=specs, out_specs=member, check_vma=False
        )
        return mapped(*args)

    return jax.jit(run_round, donate_argnums=donate)


def _compile(
    entries: entry_points.EntryPoints, platform: str, clock: Callable[[], float]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Compiles all programs in parallel (XLA releases the GIL); (executables, seconds) by name."""
    seconds: dict[str, float] = {}

    def compile_lowered(name: str, lowered: Any, started: float) -> Any:
        executable = lowered.compile(compiler_options(platform))
        seconds[name] = clock() - started
        return executable

    with futures.ThreadPoolExecutor() as pool:
        jobs = {}
        for name, function in entries.functions.items():
            started = clock()
            lowered = function.lower(*entries.arguments[name])
            jobs[name] = pool.submit(compile_lowered, name, lowered, started)
        return {name: job.result() for name, job in jobs.items()}, seconds
