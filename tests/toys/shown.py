"""The counting environment, which says how it looks: as a picture, in words, or not at all."""

from typing import Literal

from qmix_jax.envs import base
from toys import counting


class Config(counting.Config):
    """Options."""

    how: Literal["draw", "describe", "both", "nothing", "unknown"] = "both"
    """What the environment offers."""


def draw(axes, shot):
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    axes.bar([5], [1 + int(shot.state["step"])], color="#d55e00")
    assert (shot.previous_state is None) == (shot.step == 0)


def describe(shot):
    return f"step {int(shot.state['step'])} of {shot.names[0]}, paid {shot.reward:g}"


def make(cfg):
    env = counting.make(counting.Config(limit=cfg.limit, longest=cfg.longest))
    return env._replace(
        presentation=base.Presentation(
            draw=draw if cfg.how in ("draw", "both") else None,
            describe=describe if cfg.how in ("describe", "both") else None,
            scene=base.Scene("sculptor", lambda state: {}, {}) if cfg.how == "unknown" else None,
        )
    )
