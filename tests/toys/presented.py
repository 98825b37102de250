"""The counting environment with a presentation: drawn, described, both or neither."""

from typing import Literal

from qmix_jax.envs import base
from toys import counting


class Config(counting.Config):
    """Options."""

    presentation: Literal["draw", "describe", "both", "nothing", "unknown"] = "both"
    """Kind of presentation."""


def draw(axes, frame):
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    axes.bar([5], [1 + int(frame.state["step"])], color="#d55e00")
    assert (frame.previous_state is None) == (frame.step == 0)


def describe(frame):
    return f"step {int(frame.state['step'])} of {frame.names[0]}, paid {frame.reward:g}"


def make(cfg):
    env = counting.make(counting.Config(limit=cfg.limit, longest=cfg.longest))
    return env._replace(
        presentation=base.Presentation(
            draw=draw if cfg.presentation in ("draw", "both") else None,
            describe=describe if cfg.presentation in ("describe", "both") else None,
            scene=base.Scene("sculptor", lambda state: {}, {})
            if cfg.presentation == "unknown"
            else None,
        )
    )
