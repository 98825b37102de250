"""Timing, counting, and where the figures go: a table on the terminal and one JSON line each."""

import dataclasses
import itertools
import json
import math
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from rich import console, table

from qmix_jax import population
from qmix_jax.runs import metadata

Row = dict[str, Any]
"""One measurement: sizes first, then figures; the keys are the table's columns."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What every benchmark takes.

    Attributes:
      smoke: tiny sizes, a few repeats: does it run?
      repeats: timed calls per case.
      out: file that the JSON lines are appended to.
      overrides: `group=choice` and `key=value`, as for `qmix-jax train`.
    """

    smoke: bool
    repeats: int
    out: pathlib.Path
    overrides: tuple[str, ...]


class Timing(NamedTuple):
    """Seconds of `repeats` calls: median and inter-quartile range."""

    median: float
    iqr: float
    repeats: int


class Compiled(NamedTuple):
    """A compiled program and what it took: `call()` blocks until its results are there."""

    call: Callable[[], Any]
    lower_s: float
    compile_s: float
    temp_bytes: int


def compile_call(function: Callable, *args: Any, keeps: bool = False) -> Compiled:
    """Compiles `function(*args)` ahead of time, timing tracing and compilation apart.

    Args:
      keeps: `function(state, *rest) -> (state, ...)` is called with its own last state, which it
        may overwrite, as in training: otherwise each call would copy the whole replay.
    """
    started = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=0 if keeps else ()).lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile(population.compiler_options(jax.default_backend()))
    compile_s = time.perf_counter() - traced
    first = [jax.tree.map(jnp.copy, args[0]) if keeps else args[0]]

    def call() -> Any:
        result = jax.block_until_ready(compiled(*first, *args[1:]))
        first[:] = result[:1] if keeps else first
        return result

    memory = compiled.memory_analysis()
    return Compiled(call, traced - started, compile_s, int(memory.temp_size_in_bytes))


def consume(tree: Any) -> jax.Array:
    """A number that depends on every array of the tree, so that none is optimised away."""
    zero = jnp.float32(0)
    return sum((jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(tree)), zero)


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Times all calls in turn, so that a disturbance hits them alike; one round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: _timing(values[1:]) for name, values in seconds.items()}


def _timing(seconds: Sequence[float]) -> Timing:
    if len(seconds) < 2:
        return Timing(seconds[0], math.nan, 1)
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(middle, high - low, len(seconds))


def gemm_rate(size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of one square float32 matrix product in this process, the best of `repeats`.

    The products run in a compiled loop, each on the result of the last.
    """
    rounds = 3

    def chain(x: jax.Array) -> jax.Array:
        scaled = x / jnp.sqrt(float(size))
        return jax.lax.fori_loop(0, rounds, lambda _, y: scaled @ y, x)

    x = jax.random.normal(jax.random.key(0), (size, size))
    program = compile_call(chain, x)
    program.call()
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        program.call()
        best = min(best, time.perf_counter() - started)
    return rounds * 2.0 * size**3 / best


def matmul_flops(function: Callable, *args: Any) -> float:
    """Floating-point operations in the matrix products of `function(*args)`, scans multiplied out;
    products whose result nothing uses are not counted, as the compiler drops them.

    Raises: ValueError if a loop of unknown length holds a product.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _jaxpr_flops(used)


def _jaxpr_flops(jaxpr: Any) -> float:
    return sum(map(_equation_flops, jaxpr.eqns), 0.0)


def _equation_flops(eqn: Any) -> float:
    if eqn.primitive.name == "dot_general":
        (contracting, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        depth = math.prod(left[axis] for axis in contracting)
        return 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)
    inner = sum(map(_jaxpr_flops, _sub_jaxprs(eqn)), 0.0)
    if eqn.primitive.name == "while" and inner:
        raise ValueError("a loop of unknown length holds matrix products; count its body")
    return inner * eqn.params.get("length", 1)


def _sub_jaxprs(eqn: Any) -> list[Any]:
    values = (v if isinstance(v, tuple | list) else [v] for v in eqn.params.values())
    inner = (getattr(item, "jaxpr", item) for item in itertools.chain.from_iterable(values))
    return [item for item in inner if hasattr(item, "eqns")]


def peak_bytes() -> int:
    """Most memory held so far: the device's where it counts, else this process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(name: str, rows: Sequence[Row], options: Options, notes: Sequence[str] = ()) -> None:
    """Prints the table and its notes, and appends a JSON line per row."""
    shown = table.Table(title=name, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        shown.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        shown.add_row(*(_text(row.get(column)) for column in columns))
    terminal = console.Console(width=None if sys.stdout.isatty() else 160)
    terminal.print(shown)
    for note in notes:
        terminal.print(f"note: {note}", highlight=False, soft_wrap=True)
    context = metadata.manifest(
        {"overrides": list(options.overrides), "smoke": options.smoke},
        f"python -m {_module()} {' '.join(sys.argv[1:])}",
        jax.local_devices(),
        {"benchmark": name, "notes": list(notes)},
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**context, "result": row}, ensure_ascii=False) + "\n")
    terminal.print(f"{len(rows)} line(s) added to {options.out}", highlight=False)


def _module() -> str:
    """The module that was started."""
    name = pathlib.Path(sys.argv[0]).stem
    return "benchmarks" if name == "__main__" else f"benchmarks.{name}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)
