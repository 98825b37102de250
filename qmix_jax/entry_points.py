"""What a round of members is compiled from, and how it makes the calls that a population needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from qmix_jax import program as programs
from qmix_jax import train_step

Tree = Any


class RoundContext(NamedTuple):
    """What the functions of a member are made programs of a round with.

    Attributes:
      program_of: `(fn, n_shared, donate) -> jitted`; the last `n_shared` arguments have no members.
      shapes: `(fn, *arguments) -> shapes` of what `fn` returns, placed.
      placed: shape of an array with members -> the same, placed.
      seed, numbers: arguments of a round: seeds and `HParams`.  index: shape of an i32[].
      size: members of a round.
    """

    program_of: Callable[..., Callable]
    shapes: Callable[..., Tree]
    placed: Callable[[Any], jax.ShapeDtypeStruct]
    seed: Tree
    numbers: Tree
    index: jax.ShapeDtypeStruct
    size: int


class EntryPoints(NamedTuple):
    """What is compiled, and how it makes `init`, `train` and `evaluate` of a round.

    Attributes:
      functions, arguments: by the same names; the functions from `RoundContext.program_of`.
      state, tally: shapes of a round's.
      calls: `(compiled, by name) -> {"init", "train", "evaluate"}`.
    """

    functions: dict[str, Callable]
    arguments: dict[str, tuple[Tree, ...]]
    state: Tree
    tally: Tree
    calls: Callable[[dict[str, Any]], dict[str, Callable]]


def inside(program: programs.Program, bench: RoundContext) -> EntryPoints:
    """The environment is a part of the programs."""
    loop = train_step.Loop(program.step.update).traced_once()
    functions = {
        "init": bench.program_of(program.step.init),
        "train": bench.program_of(loop.train, n_shared=2, donate=(0, 1)),
        "evaluate": bench.program_of(program.evaluate, n_shared=1),
    }
    state = bench.shapes(functions["init"], bench.seed)
    tally = bench.shapes(bench.program_of(loop.empty_tally), state, bench.numbers)
    arguments = {
        "init": (bench.seed,),
        "train": (state, tally, bench.numbers, bench.index, bench.index),
        "evaluate": (state.key, state.learner.params, bench.index),
    }
    return EntryPoints(functions, arguments, state, tally, lambda compiled: compiled)
