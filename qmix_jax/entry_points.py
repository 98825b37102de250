"""The functions that are compiled for a round of members, and how a population calls them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from qmix_jax import program as programs
from qmix_jax import train_step

Tree = Any


class RoundContext(NamedTuple):
    """Turns functions of one member into programs of a round (see `population`).

    Attributes:
      jit: `(fn, n_shared=0, donate=()) -> jitted`; the last `n_shared` arguments have no member
        axis.
      eval_shape: `(fn, *arguments) -> shapes` of the results, with sharding.
      sharded: `(array or shape with a member axis) -> shape`, with sharding.
      seeds, hparams: arguments of a round.
      index: shape of an i32[].
      size: members of a round.
    """

    jit: Callable[..., Callable]
    eval_shape: Callable[..., Tree]
    sharded: Callable[[Any], jax.ShapeDtypeStruct]
    seeds: Tree
    hparams: Tree
    index: jax.ShapeDtypeStruct
    size: int


class EntryPoints(NamedTuple):
    """The programs of a round.

    Attributes:
      functions: name -> function from `RoundContext.jit`.
      arguments: name -> arguments to lower it with.
      state, tally: shapes of a round's state and tally.
      calls: `(name -> executable) -> {"init", "train", "evaluate"}`, functions of a round.
    """

    functions: dict[str, Callable]
    arguments: dict[str, tuple[Tree, ...]]
    state: Tree
    tally: Tree
    calls: Callable[[dict[str, Any]], dict[str, Callable]]


def for_compiled_env(program: programs.Program, context: RoundContext) -> EntryPoints:
    """Returns programs that contain the environment."""
    loop = train_step.Loop(program.step.update).traced_once()
    functions = {
        "init": context.jit(program.step.init),
        "train": context.jit(loop.train, n_shared=2, donate=(0, 1)),
        "evaluate": context.jit(program.evaluate, n_shared=1),
    }
    state = context.eval_shape(functions["init"], context.seeds)
    tally = context.eval_shape(context.jit(loop.empty_tally), state, context.hparams)
    arguments = {
        "init": (context.seeds,),
        "train": (state, tally, context.hparams, context.index, context.index),
        "evaluate": (state.key, state.learner.params, context.index),
    }
    return EntryPoints(functions, arguments, state, tally, lambda executables: executables)
