"""Timing, counting and reporting: a table on the terminal and one JSON line per row."""

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
    """Options of every benchmark.

    Attributes:
      smoke: tiny sizes and few repeats, to check that it runs.
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
    """A compiled program and its costs; `call()` blocks until the results are ready."""

    call: Callable[[], Any]
    lower_s: float
    compile_s: float
    temp_bytes: int


def compile_call(function: Callable, *args: Any, carries: bool = False) -> Compiled:
    """Compiles `function(*args)` ahead of time; times tracing and compilation separately.

    Args:
      carries: `function(state, *rest) -> (state, ...)` is called with its last state, which is
        donated, as in training; otherwise each call would copy the replay.
    """
    started = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=0 if carries else ()).lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile(population.compiler_options(jax.default_backend()))
    compile_s = time.perf_counter() - traced
    first = [jax.tree.map(jnp.copy, args[0]) if carries else args[0]]

    def call() -> Any:
        result = jax.block_until_ready(compiled(*first, *args[1:]))
        first[:] = result[:1] if carries else first
        return result

    memory = compiled.memory_analysis()
    return Compiled(call, traced - started, compile_s, int(memory.temp_size_in_bytes))


def consume(tree: Any) -> jax.Array:
    """Returns a scalar that depends on every array of the tree, so that none is optimised away."""
    zero = jnp.float32(0)
    return sum((jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(tree)), zero)


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Times all calls in turn, so that a disturbance affects them equally; after one warm-up."""
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
    """Returns the FLOP/s of a square float32 matrix product in this process, the best of `repeats`.

    The products run in a compiled loop, each on the previous result.
    """
    n_products = 3

    def chain(x: jax.Array) -> jax.Array:
        scaled = x / jnp.sqrt(float(size))
        return jax.lax.fori_loop(0, n_products, lambda _, y: scaled @ y, x)

    x = jax.random.normal(jax.random.key(0), (size, size))
    program = compile_call(chain, x)
    program.call()
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        program.call()
        best = min(best, time.perf_counter() - started)
    return n_products * 2.0 * size**3 / best


def matmul_flops(function: Callable, *args: Any) -> float:
    """Counts the floating-point operations of the matrix products of `function(*args)`, those of
    every scan step included, unused products excluded.

    Raises: ValueError for a product in a loop of unknown length.
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
        raise ValueError("a loop of unknown length contains matrix products; count its body")
    return inner * eqn.params.get("length", 1)


def _sub_jaxprs(eqn: Any) -> list[Any]:
    values = (v if isinstance(v, tuple | list) else [v] for v in eqn.params.values())
    inner = (getattr(item, "jaxpr", item) for item in itertools.chain.from_iterable(values))
    return [item for item in inner if hasattr(item, "eqns")]


def peak_bytes() -> int:
    """Returns the peak memory so far: of the device if it reports one, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(name: str, rows: Sequence[Row], options: Options, notes: Sequence[str] = ()) -> None:
    """Prints the table and its notes, and appends a JSON line per row."""
    printed = table.Table(title=name, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        printed.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        printed.add_row(*(_text(row.get(column)) for column in columns))
    terminal = console.Console(width=None if sys.stdout.isatty() else 160)
    terminal.print(printed)
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
    """Returns the name of the main module."""
    name = pathlib.Path(sys.argv[0]).stem
    return "benchmarks" if name == "__main__" else f"benchmarks.{name}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)
