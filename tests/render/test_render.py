"""Rendered episodes: every painter, transcripts, error messages, and the command."""

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
"""Painter -> (overrides, frames per step)."""
DESCRIBED = {
    "hanabi": (
        ("env=hanabi", "env.options.kwargs.num_colors=2", "env.options.kwargs.num_ranks=3",
         "+env.options.kwargs.hand_size=2"), ("cards are dealt", "lives 3", "R1", "agent_1"),
    ),
    "riddle": (("env=switch_riddle",), ("enters, the light is off", "agent_")),
    "two_step": (("env=two_step",), ("State 1", "agent_0 ", "reward")),
}  # fmt: skip
"""Environment -> (overrides, words of its transcript)."""


def custom(presentation):
    return ("env=custom", "env.name=toys.presented", f"+env.options.presentation={presentation}")


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
@pytest.mark.parametrize("painter", DRAWN)
def test_every_painter_draws_an_animation_and_a_contact_sheet(painter, untrained, tmp_path):
    overrides, frames_per_step = DRAWN[painter]
    (result,) = qmix_jax.render_run(untrained(*overrides), out=tmp_path / "out", fps=10)
    assert result.animation == tmp_path / "out" / "episode_0.gif" and result.transcript is None
    frames, times = read(result.animation)
    # Equal consecutive frames are stored once, with their total duration.
    assert sum(times) == 100 * result.steps * frames_per_step + 1500
    assert 1 < len(times) <= result.steps * frames_per_step + 1
    assert frames.shape[2] == 480 and 150 < frames.shape[1] < 700
    body = frames[:, 40:]
    colours = len(np.unique(body[0].reshape(-1, 3), axis=0))
    assert colours > 8, "not blank"
    assert (body != body[0]).any() or painter == "kitchen", "something moves"
    with Image.open(result.sheet) as sheet:
        assert sheet.format == "PNG" and 600 < sheet.width < 1600
        assert len(sheet.convert("RGB").getcolors(10_000)) > 8
    assert result.animation.stat().st_size < 300_000 and result.sheet.stat().st_size < 250_000
    endings = ("won", "lost", "time limit", "finished")
    assert np.isfinite(result.episode_return) and result.ending in endings


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCRIBED)
def test_games_without_a_picture_have_a_transcript(name, untrained, tmp_path):
    overrides, expected = DESCRIBED[name]
    (result,) = qmix_jax.render_run(untrained(*overrides), out=tmp_path)
    assert result.animation is None and result.transcript is not None
    text = result.transcript.read_text()
    for words in (*expected, result.ending, f"return {result.episode_return:g}"):
        assert words in text
    assert text.count("\n[") == result.steps + 1, "a paragraph per step"
    with Image.open(result.sheet) as sheet:
        assert np.asarray(sheet.convert("L")).min() < 100, "ink on paper"


@pytest.mark.slow
def test_rendered_episodes_are_those_of_an_evaluation(untrained, tmp_path):
    folder = untrained("env=mpe_spread", "+env.options.kwargs.max_steps=3", "eval.episodes=3")
    played = qmix_jax.render_run(folder, episodes=3, seed=7, member=1, out=tmp_path)
    assert len({episode.episode_return for episode in played}) == 3, "three different episodes"
    assert [episode.sheet.name for episode in played] == [f"episode_{i}.png" for i in range(3)]
    cfg = config.load(metadata.read_config(folder / "config.yaml"))
    params = parameters.load_parameters(folder / "parameters_best.npz")
    of_member = jax.tree.map(lambda x: x[1], params)
    expected = jax.jit(program.build(cfg).evaluate)(jax.random.key(7), of_member, 0)
    mean = np.mean([episode.episode_return for episode in played])
    np.testing.assert_allclose(mean, expected["return"], rtol=1e-6)


def test_a_user_defined_environment_draws_itself(untrained, tmp_path):
    (result,) = qmix_jax.render_run(untrained(*custom("both")), out=tmp_path / "a.gif")
    assert result.animation == tmp_path / "a.gif" and result.sheet == tmp_path / "a.png"
    frames, _ = read(result.animation)
    bars = (frames == (213, 94, 0)).all(axis=-1).sum(axis=(1, 2))
    assert len(frames) == result.steps + 1 and (np.diff(bars) > 0).all(), "a bar that grows"
    assert "step 1 of a, paid 1" in (tmp_path / "a.txt").read_text()


def test_a_user_defined_environment_describes_itself(untrained, tmp_path):
    folder = untrained(*custom("describe"))
    (result,) = qmix_jax.render_run(folder)
    assert result.animation is None and result.transcript == folder / "render" / "episode_0.txt"
    last = result.transcript.read_text().splitlines()[-1]
    assert last == f"{result.ending} after {result.steps} steps, return {result.episode_return:g}"
    with pytest.raises(qmix_jax.ConfigError, match=r"x\.gif.*ends in \.txt, or a folder"):
        qmix_jax.render_run(folder, out=tmp_path / "x.gif")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"member": 2}, "member=2, but the run has 2; allowed: 0 to 1"),
        ({"episodes": 0}, "episodes=0; must be at least 1"),
        ({"fps": 51}, "fps=51; must be above 0 and at most 50"),
        ({"parameters": "bset"}, "parameters='bset'; did you mean 'best'.*allowed: best, final"),
        ({"overrides": {"seed": 3}}, r"seed cannot change.*allowed: env\.options"),
        ({"overrides": {"env.options.game": "2B"}}, r"sizes=\(2, 2\)\), but.*on matrix/Q3"),
        ({"out": "x.txt", "episodes": 2}, "one file, but episodes=2; give a folder"),
        ({"out": "/proc/nowhere"}, "cannot write '/proc/nowhere'"),
        ({"out": "x.png"}, r"rendered to a \.txt file; allowed: a file that ends in \.txt, or a"),
    ],
)
def test_mistakes_are_one_line(arguments, message, untrained):
    with pytest.raises(qmix_jax.ConfigError, match=f"render: .*{message}") as caught:
        qmix_jax.render_run(untrained("env=matrix"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("presentation", "message"),
    [
        ("nothing", "has no presentation; return one .* draw .*describe"),
        ("unknown", "'sculptor'.*battle"),
    ],
)
def test_an_environment_without_a_known_presentation_is_refused(presentation, message, untrained):
    with pytest.raises(qmix_jax.ConfigError, match=f"'counting'.*{message}"):
        qmix_jax.render_run(untrained(*custom(presentation)))


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
