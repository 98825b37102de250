"""Run as a program: trains a small population on eight devices and on one, and prints what
`test_sharding.py` judges, as JSON.
"""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from qmix_jax import population
from toys import members

_COMMUNICATION = re.compile(
    r"\b((?:all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|send|recv"
    r"|collective-permute|collective-broadcast)(?:-start|-done)?)\("
)


def communication(text: str) -> list[str]:
    """Operations in an optimised HLO text by which devices talk to each other."""
    return sorted(set(_COMMUNICATION.findall(text)))


def control() -> list[str]:
    """Those of a program that does communicate."""
    mesh, over = Mesh(np.asarray(jax.devices()), ("members",)), PartitionSpec("members")

    def mean(x: jax.Array) -> jax.Array:
        return jax.lax.pmean(x, "members")

    whole = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=over, out_specs=over))
    return communication(whole.lower(jnp.ones(8)).compile().as_text())


def programs(**settings: Any) -> dict[str, Any]:
    """Layout of a population, and of each of its programs (partitions, communication)."""
    texts: dict[str, str] = {}
    compile_all = population._compile

    def keeping(*arguments: Any) -> Any:
        compiled, seconds = compile_all(*arguments)
        texts.update({name: program.as_text() for name, program in compiled.items()})
        return compiled, seconds

    population._compile = keeping
    layout = members.compiled(members.small(**settings))[0].layout
    population._compile = compile_all
    return {
        "devices": len(layout.devices),
        "lanes": layout.per_device,
        "partitions": {
            name: re.findall(r"num_partitions=(\d+)", text) for name, text in texts.items()
        },
        "communication": {name: communication(text) for name, text in texts.items()},
    }


def equal(a: Any, b: Any) -> list[bool]:
    """Which leaves of two trees are equal bit for bit."""
    pairs = zip(members.leaves(a), members.leaves(b), strict=True)
    return [x.tobytes() == y.tobytes() for x, y in pairs]


def main() -> None:
    """Everything; the last line printed is the result."""
    jax.config.update("jax_num_cpu_devices", 8)
    answers = {
        "control": control(),
        "map": programs(seeds=8),
        "vmap": programs(seeds=16, population={"batching": "vmap"}),
    }
    spread = members.train(members.small(seeds=8), calls=(4,))
    alone = members.train(members.small(seeds=8, population={"devices": 1}), calls=(4,))
    assert len(alone.members.layout.devices) == 1
    answers["equal"] = {
        name: equal(getattr(spread, name), getattr(alone, name))
        for name in ("parameters", "evaluation", "metrics")
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
