"""Checks of an environment that is stepped in Python: it is played, not compiled."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.types import TimeStep


def _plays(subject: Subject) -> Iterator[Finding]:
    """Two episodes from one seed."""
    one, two = (_episode(subject, 0) for _ in range(2))
    for t, timestep in enumerate(one):
        yield from _wrong(subject, f"{'step' if t else 'reset'} (time step {t})", timestep)
    last = one[-1]
    if not (last.terminated or last.truncated):
        limit = subject.spec.max_steps
        yield Finding(
            "step: TimeStep.truncated",
            f"an episode that goes on after {limit} steps",
            f"its end by then (spec.max_steps={limit})",
            "set env.options.max_steps to the true limit",
        )
    if len(one) != len(two) or any(
        not np.array_equal(a.obs, b.obs) for a, b in zip(one, two, strict=False)
    ):
        yield Finding(
            "reset(seed)",
            "two different episodes from one seed and the same actions",
            "an episode that depends on the seed and the actions alone",
            "draw everything from the generator that reset(seed) makes; a run cannot be repeated "
            "otherwise",
        )


def _wrong(subject: Subject, where: str, timestep: TimeStep) -> Iterator[Finding]:
    spec = subject.spec
    shapes = {
        "obs": (spec.n_agents, *spec.obs_shape),
        "state": (spec.state_size,),
        "avail_actions": (spec.n_agents, spec.n_actions_max),
    }
    for name, shape in shapes.items():
        values: Any = getattr(timestep, name)
        if values.shape != shape or not np.isfinite(values).all():
            got = f"shape {values.shape}" if values.shape != shape else "values that are not finite"
            yield Finding(
                f"{where}: TimeStep.{name}",
                got,
                f"finite values of shape {shape}",
                "correct the spaces that the environment declares, or what it shows",
            )
    if not np.asarray(timestep.avail_actions).any(axis=-1).all():
        yield Finding(
            f"{where}: TimeStep.avail_actions",
            "an agent without any action",
            "at least one for every agent",
            "give an agent that cannot act a no-op",
        )
    if timestep.terminated and timestep.truncated:
        yield Finding(where, "terminated and truncated", "one of them", "truncated is the limit")


def _episode(subject: Subject, seed: int) -> list[TimeStep]:
    """Random play to the end, or to the limit."""
    assert subject.env.host is not None
    rng, env = np.random.default_rng(seed), subject.env.host()
    shown = [env.reset(seed)]
    while len(shown) <= subject.spec.max_steps:
        avail = np.asarray(shown[-1].avail_actions)
        actions = (rng.random(avail.shape) * avail).argmax(axis=-1)
        shown.append(env.step(actions.astype(np.int32)))
        if shown[-1].terminated or shown[-1].truncated:
            break
    env.close()
    return shown


CHECKS = (Check("episodes in Python keep the contract", _plays),)
