"""Trains a few updates and writes the calls that lead to the compiled program as JSON:
`python structure_worker.py PACKAGE RUN OUT.json`, with the checkout of PACKAGE on `sys.path`.
"""

import collections
import inspect
import json
import pathlib
import sys
from typing import Any

import jax

import qmix_jax

_NO_CALLS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "__enter__", "__exit__")
_SMALL = (
    "experiment=two_step", "seeds=1", "trainer.env_steps=160", "trainer.log_every=2",
    "eval.every=80", "replay.capacity=40", "compile_cache=false", "checkpoint.enabled=false",
)  # fmt: skip


def main(package: pathlib.Path, run: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the most frequent call stack of a program that donates, as only training does."""
    assert pathlib.Path(qmix_jax.__file__).parent == package.resolve(), qmix_jax.__file__
    stacks: collections.Counter[tuple[str, ...]] = collections.Counter()
    call = jax.stages.Compiled.__call__

    def counted_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any(leaf.donated for leaf in jax.tree.leaves(self.args_info)):
            stacks[_stack(package.resolve())] += 1
        return call(self, *args, **kwargs)

    jax.stages.Compiled.__call__ = counted_call
    qmix_jax.train(qmix_jax.compose_config(*_SMALL), run)
    ((stack, _),) = stacks.most_common(1)  # warm-up may have another stack, once
    out.write_text(json.dumps(stack), encoding="utf-8")


def _stack(package: pathlib.Path) -> tuple[str, ...]:
    """Returns `file:function` of the package's frames on the stack, outermost first."""
    frames = ((pathlib.Path(f.filename), f.function) for f in inspect.stack(context=0)[2:])
    return tuple(
        f"{path.relative_to(package)}:{name}"
        for path, name in reversed(list(frames))
        if package in path.parents and name not in _NO_CALLS
    )


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
