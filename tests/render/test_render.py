"""Episodes of trained runs as pictures and words: every family, refusals, and the command."""

import jax
import numpy as np
import pytest
from PIL import Image

import qmix_jax
from qmix_jax import config, program
from qmix_jax.cli import main
from qmix_jax.runs import metadata, parameters

DRAWN = {
    "battle": (("env=smax", "+env.options.kwargs.max_steps=6"), 4),
    "particles": (
        ("env=mpe_speaker_listener", "env.options.id=MPE_simple_reference_v3",
         "+env.options.kwargs.max_steps=3"), 3,
    ),
    "kitchen": (("env=overcooked", "env.options.kwargs.max_steps=5"), 1),
    "cells": (
        ("env=predator_prey", "env.options.size=5", "env.options.n_agents=3",
         "env.options.n_prey=2", "env.options.max_steps=4"), 2,
    ),
    "maze": (
        ("env=jaxnav", "env.options.kwargs.max_steps=5", "env.options.kwargs.map_size=7",
         "env.options.kwargs.lidar_num_beams=8"), 1,
    ),
}  # fmt: skip
"""Family -> (overrides, frames per step)."""
TOLD = {
    "hanabi": (
        ("env=hanabi", "env.options.kwargs.num_colors=2", "env.options.kwargs.num_ranks=3",
         "+env.options.kwargs.hand_size=2"), ("cards are dealt", "lives 3", "R1", "agent_1"),
    ),
    "riddle": (("env=switch_riddle",), ("enters, the light is off", "agent_")),
    "two_step": (("env=two_step",), ("State 1", "agent_0 ", "reward")),
}  # fmt: skip
"""Family -> (overrides, what the transcript says)."""


def own(how):
    return ("env=custom", "env.name=toys.shown", f"+env.options.how={how}")


def read(path):
    """Frames u8[F, H, W, 3] and milliseconds of each."""
    frames, times = [], []
    with Image.open(path) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
            times.append(picture.info["duration"])
    return np.stack(frames), times


@pytest.mark.slow
@pytest.mark.parametrize("family", DRAWN)
def test_every_family_becomes_an_animation_and_a_contact_sheet(family, untrained, tmp_path):
    overrides, frames_per_step = DRAWN[family]
    (one,) = qmix_jax.render_run(untrained(*overrides), out=tmp_path / "out", fps=10)
    assert one.animation == tmp_path / "out" / "episode_0.gif" and one.transcript is None
    frames, times = read(one.animation)
    # Frames that are equal are stored once, for as long as both.
    assert sum(times) == 100 * one.steps * frames_per_step + 1500
    assert 1 < len(times) <= one.steps * frames_per_step + 1
    assert frames.shape[2] == 480 and 150 < frames.shape[1] < 700
    body = frames[:, 40:]
    colours = len(np.unique(body[0].reshape(-1, 3), axis=0))
    assert colours > 8, "not blank"
    assert (body != body[0]).any() or family == "kitchen", "something moves"
    with Image.open(one.sheet) as sheet:
        assert sheet.format == "PNG" and 600 < sheet.width < 1600
        assert len(sheet.convert("RGB").getcolors(10_000)) > 8
    assert one.animation.stat().st_size < 300_000 and one.sheet.stat().st_size < 250_000
    assert np.isfinite(one.returned) and one.ending in ("won", "lost", "time limit", "finished")


@pytest.mark.slow
@pytest.mark.parametrize("family", TOLD)
def test_games_without_a_picture_are_told(family, untrained, tmp_path):
    overrides, says = TOLD[family]
    (one,) = qmix_jax.render_run(untrained(*overrides), out=tmp_path)
    assert one.animation is None and one.transcript is not None
    text = one.transcript.read_text()
    for words in (*says, one.ending, f"return {one.returned:g}"):
        assert words in text
    assert text.count("\n[") == one.steps + 1, "a paragraph for each moment"
    with Image.open(one.sheet) as sheet:
        assert np.asarray(sheet.convert("L")).min() < 100, "ink on paper"


@pytest.mark.slow
def test_they_are_the_episodes_of_an_evaluation(untrained, tmp_path):
    folder = untrained("env=mpe_spread", "+env.options.kwargs.max_steps=3", "eval.episodes=3")
    played = qmix_jax.render_run(folder, episodes=3, seed=7, member=1, out=tmp_path)
    assert len({one.returned for one in played}) == 3, "three different episodes"
    assert [one.sheet.name for one in played] == [f"episode_{i}.png" for i in range(3)]
    cfg = config.load(metadata.read_config(folder / "config.yaml"))
    params = parameters.load_parameters(folder / "parameters_best.npz")
    mine = jax.tree.map(lambda x: x[1], params)
    expected = jax.jit(program.build(cfg).evaluate)(jax.random.key(7), mine, 0)
    mean = np.mean([one.returned for one in played])
    np.testing.assert_allclose(mean, expected["return"], rtol=1e-6)


def test_an_environment_of_your_own_draws_itself(untrained, tmp_path):
    (one,) = qmix_jax.render_run(untrained(*own("both")), out=tmp_path / "film.gif")
    assert one.animation == tmp_path / "film.gif" and one.sheet == tmp_path / "film.png"
    frames, _ = read(one.animation)
    bars = (frames == (213, 94, 0)).all(axis=-1).sum(axis=(1, 2))
    assert len(frames) == one.steps + 1 and (np.diff(bars) > 0).all(), "a bar that grows"
    assert "step 1 of a, paid 1" in (tmp_path / "film.txt").read_text()


def test_an_environment_of_your_own_tells_itself(untrained, tmp_path):
    folder = untrained(*own("describe"))
    (one,) = qmix_jax.render_run(folder)
    assert one.animation is None and one.transcript == folder / "render" / "episode_0.txt"
    last = one.transcript.read_text().splitlines()[-1]
    assert last == f"{one.ending} after {one.steps} steps, return {one.returned:g}"
    with pytest.raises(qmix_jax.ConfigError, match=r"x\.gif.*ends in \.txt, or a folder"):
        qmix_jax.render_run(folder, out=tmp_path / "x.gif")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"member": 2}, "member=2, but the run has 2; allowed: 0 to 1"),
        ({"episodes": 0}, "episodes=0; must be at least 1"),
        ({"fps": 51}, "fps=51; a GIF shows more than 0 and at most 50"),
        ({"parameters": "bset"}, "parameters='bset'; did you mean 'best'.*allowed: best, final"),
        ({"overrides": {"seed": 3}}, r"seed cannot change.*allowed: env\.options"),
        ({"overrides": {"env.options.game": "2B"}}, r"sizes=\(2, 2\)\), but.*on matrix/Q3"),
        ({"out": "x.txt", "episodes": 2}, "one file for episodes=2; give a folder"),
        ({"out": "/proc/nowhere"}, "cannot write '/proc/nowhere'"),
        ({"out": "x.png"}, r"becomes a \.txt file; allowed: a name that ends in \.txt, or a"),
    ],
)
def test_mistakes_are_one_line(arguments, message, untrained):
    with pytest.raises(qmix_jax.ConfigError, match=f"render: .*{message}") as caught:
        qmix_jax.render_run(untrained("env=matrix"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nothing", "allowed: a Presentation with draw .*describe"),
        ("unknown", "'sculptor'.*battle"),
    ],
)
def test_who_shows_nothing_is_told_what_to_do(how, message, untrained):
    with pytest.raises(qmix_jax.ConfigError, match=f"'counting'.*{message}"):
        qmix_jax.render_run(untrained(*own(how)))


def test_the_command_plays_another_game_of_equal_sizes(untrained, tmp_path, capsys):
    folder = untrained("env=matrix")
    flags = ["--episodes", "2", "--member", "1", "--parameters", "final", "--out", str(tmp_path)]
    assert main.main(["render", str(folder), *flags, "env.options.game=HARD"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("episode 1: return ")
    for name in ("episode_0.txt", "episode_0.png", "episode_1.txt", "episode_1.png"):
        assert (tmp_path / name).is_file()
    assert (tmp_path / "episode_0.txt").read_text().startswith("matrix/HARD")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: DIR"),
        (["nowhere"], "cannot read 'nowhere/config.yaml'"),
        (["nowhere", "game"], "'game' is not key=value"),
        (["nowhere", "--episode", "3"], "unrecognized arguments: --episode"),
        (["nowhere", "--seed", "x"], "invalid int value"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, message, capsys):
    assert main.main(["render", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
