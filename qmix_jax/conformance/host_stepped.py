"""Checks of an environment that is stepped in Python: it is played, not compiled."""

from collections.abc import Iterator

import numpy as np

from qmix_jax.conformance import base
from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.envs import base as envs
from qmix_jax.types import TimeStep


def _returns(subject: Subject) -> Iterator[Finding]:
    try:
        shown = {"reset": subject.first[1], "step": subject.after[1]}
    except Exception as error:  # whatever the user's code raises
        yield base.of_exception("start, reset or step", error, subject.folder)
        return
    for name, timestep in shown.items():
        if not isinstance(timestep, TimeStep):
            yield Finding(name, type(timestep).__name__, "a TimeStep", "return that alone")


def _same_seed(subject: Subject) -> Iterator[Finding]:
    """The first episode again, by the same actions."""
    assert isinstance(subject.env, envs.HostEnv)
    played, episodes = subject.played, subject.env.start()
    again = [episodes.reset(subject.seed)]
    length = int(np.flatnonzero(played.ended | played.timed_out)[0]) + 1
    while len(again) <= length and not (again[-1].terminated or again[-1].truncated):
        again.append(episodes.step(played.actions[0, len(again) - 1]))
    episodes.close()
    expected = [played.shown.obs[0, 0], *played.stepped.obs[0, :length]]
    if len(again) != len(expected) or not all(
        np.array_equal(one.obs, two) for one, two in zip(again, expected, strict=True)
    ):
        yield Finding(
            "reset(seed)",
            "two different episodes from one seed and the same actions",
            "an episode that depends on the seed and the actions alone",
            "draw everything from the generator that reset(seed) makes; a run cannot be repeated "
            "otherwise",
        )


RETURNS = (Check("reset and step can be called", _returns),)
CHECKS = (Check("same seed, same episode", _same_seed),)
