"""Checks of host environments, which are played instead of compiled."""

from collections.abc import Iterator

import numpy as np

from qmix_jax.conformance import base
from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.envs import base as envs
from qmix_jax.types import TimeStep


def _calls(subject: Subject) -> Iterator[Finding]:
    try:
        timesteps = {"reset": subject.reset_result[1], "step": subject.step_result[1]}
    except Exception as error:  # user code may raise anything
        yield base.from_exception("start, reset or step", error, subject.folder)
        return
    for name, timestep in timesteps.items():
        if not isinstance(timestep, TimeStep):
            yield Finding(name, type(timestep).__name__, "a TimeStep", "return only that")


def _same_seed(subject: Subject) -> Iterator[Finding]:
    """Replays the first episode with the same seed and actions."""
    assert isinstance(subject.env, envs.HostEnv)
    played, episodes = subject.playthrough, subject.env.start()
    replay = [episodes.reset(subject.seed)]
    length = int(np.flatnonzero(played.ended | played.timed_out)[0]) + 1
    while len(replay) <= length and not (replay[-1].terminated or replay[-1].truncated):
        replay.append(episodes.step(played.actions[0, len(replay) - 1]))
    episodes.close()
    expected = [played.timesteps.obs[0, 0], *played.next_timesteps.obs[0, :length]]
    if len(replay) != len(expected) or not all(
        np.array_equal(timestep.obs, obs) for timestep, obs in zip(replay, expected, strict=True)
    ):
        yield Finding(
            "reset(seed)",
            "two different episodes from the same seed and actions",
            "an episode determined by its seed and actions",
            "draw all randomness from a generator that reset(seed) makes; runs cannot be "
            "reproduced otherwise",
        )


CALLS = (Check("reset and step can be called", _calls),)
CHECKS = (Check("same seed, same episode", _same_seed),)
