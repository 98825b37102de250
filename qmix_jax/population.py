"""Members of a population on devices: the only vmap over members, the only jit, the only mesh.

Members never talk to each other. A population runs as `rounds` calls of one compiled program, each
on `devices * lanes` members; a lane is a vmapped member inside a device. `map` is one lane and as
many rounds as it takes: nothing is batched, no member waits for another's control flow, and a
member's arrays are donated whole. `vmap` is one round. The last round is padded with inert copies
of the last member, whose results are dropped.
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
"""Beginning of the names that the replay's arrays have in a snapshot."""

_AXIS = "members"
Tree = Any
Rounds = tuple[Tree, ...]
"""One tree per round, each with a leading axis of `Layout.size` members."""


class Layout(NamedTuple):
    """How members share devices: `rounds * len(devices) * lanes` places for `n_members`.

    `batching` is `map` or `vmap`, as used.
    """

    n_members: int
    devices: tuple[Device, ...]
    lanes: int
    rounds: int
    batching: str

    @property
    def size(self) -> int:
        """Members of one round."""
        return len(self.devices) * self.lanes

    @property
    def padding(self) -> int:
        """Inert members."""
        return self.rounds * self.size - self.n_members


class Metrics(NamedTuple):
    """Host copy of a tally: name -> (sum f64[P], count f64[P]), and for each watched metric the
    first update i64[P] in which it was not finite (`train_step.NEVER` where it always was).
    """

    totals: dict[str, tuple[np.ndarray, np.ndarray]]
    first_nonfinite: dict[str, np.ndarray]


class Population:
    """A whole population, compiled; states and tallies are trees, one per round.

    Attributes:
      layout: members on devices.
      compile_seconds: program -> seconds; the programs compile side by side.
      metric_names: names in a tally.
      parameter_counts: network -> number of parameters of one member.
      memory: bytes of one member.
    """

    def __init__(
        self, programs: "_CompiledRound", seeds: Sequence[int], hparams: Sequence[HParams]
    ) -> None:
        """`programs`: of a round, whatever members it has."""
        self._programs = programs
        places = programs.places
        self.layout = places._replace(n_members=len(seeds), rounds=-(-len(seeds) // places.size))
        self.compile_seconds = programs.seconds
        self.metric_names = tuple(programs.tally.metrics)
        self.memory = programs.memory()
        self.parameter_counts = {
            name: sum(leaf.size // places.size for leaf in jax.tree.leaves(tree))
            for name, tree in programs.state.learner.params.items()
        }
        numbers = [np.int32(seed) for seed in seeds]
        self._seeds = _deal(self.layout, programs.sharding, numbers)
        self._hparams = _deal(self.layout, programs.sharding, hparams)

    def init(self) -> Rounds:
        """States of fresh members."""
        return tuple(self._programs.calls["init"](seed) for seed in self._seeds)

    def empty_tallies(self) -> Rounds:
        """Tallies of zeros."""

        def empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            fill = train_step.NEVER if np.issubdtype(leaf.dtype, np.integer) else 0
            return jax.device_put(np.full(leaf.shape, fill, leaf.dtype), leaf.sharding)

        return tuple(jax.tree.map(empty, self._programs.tally) for _ in range(self.layout.rounds))

    def train(
        self, states: Rounds, tallies: Rounds, first_update: int, n_updates: int
    ) -> tuple[Rounds, Rounds]:
        """(states, tallies) after these updates; those given are donated. Updates below 0 are the
        warm-up.
        """
        span = (np.int32(first_update), np.int32(n_updates))
        results = [
            self._programs.calls["train"](state, tally, hparams, *span)
            for state, tally, hparams in zip(states, tallies, self._hparams, strict=True)
        ]
        return tuple(state for state, _ in results), tuple(tally for _, tally in results)

    def evaluate(self, states: Rounds, index: int) -> dict[str, np.ndarray]:
        """name -> f32[P], means of greedy episodes; `index` chooses them."""
        evaluate = self._programs.calls["evaluate"]
        results = [evaluate(state.key, state.learner.params, np.int32(index)) for state in states]
        return _gather(results, self.layout)

    def parameters(self, states: Rounds) -> Tree:
        """The online parameters, a tree of NumPy arrays [P, ...]."""
        return _gather([state.learner.params for state in states], self.layout)

    def metrics(self, tallies: Rounds) -> Metrics:
        """Host copy of the tallies."""
        tally = _gather(tallies, self.layout)
        totals = {
            name: (total.astype(np.float64), count.astype(np.float64))
            for name, (total, count) in tally.metrics.items()
        }
        firsts = {name: first.astype(np.int64) for name, first in tally.first_nonfinite.items()}
        return Metrics(totals=totals, first_nonfinite=firsts)

    def rebind(self, seeds: Sequence[int], hparams: Sequence[HParams]) -> "Population":
        """Another population with the same compiled programs."""
        return Population(self._programs, seeds, hparams)

    def adopt(self, states: Rounds, tallies: Rounds, keep: Sequence[int]) -> tuple[Rounds, Rounds]:
        """(states, tallies) of this population: the members `keep` of another one, unchanged,
        wherever they now live.
        """
        programs, n_rounds = self._programs, self.layout.rounds
        pairs = (states, programs.state), (tallies, programs.tally)
        states, tallies = (
            host_arrays.select_members(rounds, keep, like, n_rounds, programs.sharding)
            for rounds, like in pairs
        )
        return states, tallies

    def snapshot(self, states: Rounds, tallies: Rounds, n_stored: int) -> dict[str, np.ndarray]:
        """name -> NumPy array [P, ...], copies of everything; of the replay the first `n_stored`
        sequences, none of it with 0.
        """
        n_members = self.layout.n_members
        kept = host_arrays.to_host(states, n_members, {"replay/": n_stored})
        counted = host_arrays.to_host(tallies, n_members, {})
        return {
            **{f"state/{name}": values for name, values in kept.items()},
            **{f"tally/{name}": values for name, values in counted.items()},
        }

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raises: ValueError for a snapshot of another program."""
        host_arrays.check(_under("state", arrays), self._programs.state)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> tuple[Rounds, Rounds]:
        """(states, tallies) of a snapshot, of this population or of an equal one on other devices.

        Raises: as `check`.
        """
        programs = self._programs
        likes = {"state": programs.state, "tally": programs.tally}
        states, tallies = (
            host_arrays.to_devices(
                _under(name, arrays), like, self.layout.rounds, programs.sharding
            )
            for name, like in likes.items()
        )
        return states, tallies


class _CompiledRound(NamedTuple):
    """Compiled programs of a round and what they make, for any members; `state` and `tally` are
    their shapes.
    """

    places: Layout
    sharding: NamedSharding
    executables: dict[str, Any]
    calls: dict[str, Callable]
    seconds: dict[str, float]
    state: Tree
    tally: Tree

    def memory(self) -> memory.MemoryEstimate:
        """Bytes of one member."""
        found = [executable.memory_analysis() for executable in self.executables.values()]
        return memory.MemoryEstimate(
            parts=memory.parts(self.state, self.places.size),
            temporaries=max(one.temp_size_in_bytes for one in found) // self.places.lanes,
        )


def layout(
    n_members: int,
    devices: Sequence[Device],
    batching: Literal["map", "vmap", "auto"],
    most: int | None = None,
) -> Layout:
    """Places members. `auto` is `map` on CPUs (batched small products lose there), else `vmap`.

    Args:
      most: members that may be alive together, None for any number; the layout is then that of the
        first ones, and others follow by `Population.rebind`.
    """
    alive = n_members if most is None else min(n_members, most)
    used = tuple(devices[:alive])
    if batching == "auto":
        batching = "map" if used[0].platform == "cpu" else "vmap"
    # Whole rounds only, so that no inert member takes the place of a living one.
    per_device = -(-alive // len(used)) if alive == n_members else alive // len(used)
    lanes, rounds = (1, per_device) if batching == "map" else (per_device, 1)
    return Layout(min(n_members, per_device * len(used)), used, lanes, rounds, batching)


def each_seed(run: Callable[[Array], Tree], seeds: Sequence[int]) -> Tree:
    """`run(key)` for every seed, one after another on one device; numpy leaves [P, ...]."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    options = compiler_options(jax.default_backend())
    mapped = jax.jit(lambda k: jax.lax.map(run, k), compiler_options=options)
    return jax.tree.map(np.asarray, mapped(keys))


def compile_programs(
    program: programs.Program,
    places: Layout,
    seeds: Sequence[int],
    hparams: Sequence[HParams],
    precision: str,
    clock: Callable[[], float],
    kit: Callable[
        [programs.Program, entry_points.RoundContext], entry_points.EntryPoints
    ] = entry_points.inside,
) -> Population:
    """Lowers and compiles `init`, `train` (also the warm-up) and `evaluate` for one round.

    Args:
      program: one member's functions.
      places: `layout(...)`.
      seeds: one per member.
      hparams: one per member, scalars.
      precision: matrix-product precision, as `jax.default_matmul_precision`.
      clock: seconds, to time each compilation with.
      kit: what is compiled, and how a round is made of it; by default the environment's own step,
        inside the programs.
    """
    mesh = Mesh(np.asarray(places.devices), (_AXIS,))
    split = NamedSharding(mesh, PartitionSpec(_AXIS))

    def program_of(fn: Callable, n_shared: int = 0, donate: tuple[int, ...] = ()) -> Callable:
        return _spmd(fn, mesh, places.lanes, n_shared, donate)

    bench = entry_points.RoundContext(
        program_of=program_of,
        shapes=lambda fn, *args: _shapes(fn, split, *args),
        placed=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split),
        seed=_deal(places, split, [np.int32(seeds[0])])[0],
        numbers=_deal(places, split, hparams[:1])[0],
        index=jax.ShapeDtypeStruct((), np.int32),
        size=places.size,
    )
    # bfloat16 networks are made by the program; nothing else has products worth rounding.
    with jax.default_matmul_precision("default" if precision == "bfloat16" else precision):
        parts = kit(program, bench)
        compiled, seconds = _compile(parts.functions, parts.arguments, places, clock)

    made = _CompiledRound(
        places=places,
        sharding=split,
        executables=compiled,
        calls=parts.calls(compiled),
        seconds=seconds,
        state=parts.state,
        tally=parts.tally,
    )
    return Population(made, seeds, hparams)


def each_member(run: Callable[[Tree], Tree], params: Tree) -> Tree:
    """`run(params)` of every member of parameters [P, ...]; NumPy leaves [P, ...]."""
    return _host(jax.jit(jax.vmap(run))(params))


def _under(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{part}/"
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _deal(places: Layout, sharding: NamedSharding, members: Sequence[Tree]) -> Rounds:
    """Stacks one tree per member into rounds on the devices, padding with the last member."""
    padded = [*members, *[members[-1]] * (places.rounds * places.size - len(members))]
    rounds = [padded[i : i + places.size] for i in range(0, len(padded), places.size)]
    stacked = (jax.tree.map(lambda *leaves: np.stack(leaves), *group) for group in rounds)
    return tuple(jax.device_put(tree, sharding) for tree in stacked)


def _spmd(fn: Callable, mesh: Mesh, lanes: int, n_shared: int, donate: tuple[int, ...]) -> Callable:
    """`fn` of one member -> jitted function of a round; the last `n_shared` inputs are shared."""

    def shard(*args: Tree) -> Tree:
        members, shared = args[: len(args) - n_shared], args[len(args) - n_shared :]
        if lanes > 1:
            axes = (*[0] * len(members), *[None] * n_shared)
            return jax.vmap(fn, in_axes=axes)(*members, *shared)
        alone = jax.tree.map(lambda x: x[0], members)
        return jax.tree.map(lambda x: x[None], fn(*alone, *shared))

    def whole(*args: Tree) -> Tree:
        member, shared = PartitionSpec(_AXIS), PartitionSpec()
        specs = (*[member] * (len(args) - n_shared), *[shared] * n_shared)
        # check_vma: loop carries start from constants, which the checker takes for replicated
        # values.
        mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=member, check_vma=False)
        return mapped(*args)

    return jax.jit(whole, donate_argnums=donate)


def _shapes(fn: Callable, sharding: NamedSharding, *args: Tree) -> Tree:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(fn, *args),
    )


def _compile(
    functions: dict[str, Callable],
    arguments: dict[str, tuple[Tree, ...]],
    places: Layout,
    clock: Callable[[], float],
) -> tuple[dict[str, Any], dict[str, float]]:
    """Compiles all programs side by side: XLA releases the interpreter lock."""
    seconds: dict[str, float] = {}
    options = compiler_options(places.devices[0].platform)

    def finish(name: str, lowered: Any, started: float) -> Any:
        compiled = lowered.compile(options)
        seconds[name] = clock() - started
        return compiled

    with futures.ThreadPoolExecutor() as pool:
        jobs = {}
        for name, function in functions.items():
            started = clock()
            jobs[name] = pool.submit(finish, name, function.lower(*arguments[name]), started)
        return {name: job.result() for name, job in jobs.items()}, seconds


def compiler_options(platform: str) -> dict[str, int] | None:
    """What XLA is told besides its defaults: on a CPU, less effort for machine code.

    Measured with jax 0.10.2 and 0.11.2: the SMAX training program compiles in 7.4 instead of 9.0 s
    and runs as fast (134 against 140 ms an update), for matrix products are library calls.
    """
    return {"xla_backend_optimization_level": 1} if platform == "cpu" else None


def _host(tree: Tree) -> Tree:
    return jax.tree.map(np.asarray, tree)


def _gather(rounds: Sequence[Tree], places: Layout) -> Tree:
    """One host tree with axis P, without the padding."""
    return jax.tree.map(
        lambda *leaves: np.concatenate(leaves)[: places.n_members], *map(_host, rounds)
    )
