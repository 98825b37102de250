"""`qmix_jax.render_run`: greedy episodes as animations, contact sheets and transcripts."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config, evaluate, population, program, train_step
from qmix_jax.envs import base as envs
from qmix_jax.machine import compile_cache
from qmix_jax.mixers import base as mixers
from qmix_jax.render import base, battle, cells, kitchen, maze, particles, pictures, text
from qmix_jax.runs import metadata, storage
from qmix_jax.runs import parameters as saved
from qmix_jax.types import Array, EnvSpec

_PAINTERS: dict[str, Callable[[base.Episode, Mapping[str, Any]], base.Painter]] = {
    "battle": battle.make,
    "particles": particles.make,
    "kitchen": kitchen.make,
    "cells": cells.make,
    "maze": maze.make,
}
_PARAMETERS = ("best", "final")
_SUFFIXES = (".gif", ".txt", ".png")


class Rendered(NamedTuple):
    """One episode and its files.

    Attributes:
      animation: a GIF; None if the environment can only be described.
      transcript: a text file; None if it can only be drawn.
      sheet: a contact sheet: a PNG of evenly spaced steps.
      episode_return: the sum of the raw rewards, as in evaluation.
      steps: env steps.
      ending: `won`, `lost`, `time limit` or `finished`.
      metrics: the environment's, of this episode.
    """

    animation: pathlib.Path | None
    transcript: pathlib.Path | None
    sheet: pathlib.Path
    episode_return: float
    steps: int
    ending: str
    metrics: dict[str, float]

    def _repr_png_(self) -> bytes:
        """Returns the sheet, for notebooks."""
        return self.sheet.read_bytes()


def render_run(
    directory: str | os.PathLike[str],
    *,
    episodes: int = 1,
    seed: int = 0,
    member: int = 0,
    parameters: str = "best",
    fps: float | None = None,
    out: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Rendered, ...]:
    """Plays greedy episodes of a trained run and draws or describes them.

    They equal the first evaluation of a run with this seed and as many `eval.episodes`.

    Args:
      directory: a run directory.
      episodes: number of episodes.
      seed: seed of the episodes, not necessarily the run's.
      member: index of the member that plays.
      parameters: `best` (by evaluation) or `final`.
      fps: frames per second of the GIF, at most 50; by default a speed that suits the environment.
      out: folder for `episode_0.gif`, `episode_0.png`, ..., by default `render` in the run
        directory; or, for a single episode, a file `*.gif` or `*.txt`.
      overrides: other values of `env.options.*`, such as another scenario; observations and actions
        must keep their sizes.
    Returns:
      One `Rendered` per episode.
    Raises:
      ConfigError: not a run directory, a value that is not allowed, an environment without a
        presentation, or an `out` that cannot be written.
    """
    root = pathlib.Path(directory)
    cfg = metadata.read_run_config(root)
    _check(cfg, episodes, member, parameters, fps)
    env = _environment(cfg, overrides or {})
    presentation = _presentation(env)
    suffix = ".gif" if presentation.draw or presentation.scene else ".txt"
    files = _files(pathlib.Path(out or root / "render"), episodes, suffix)
    params = saved.load_parameters(root / f"parameters_{parameters}.npz")
    params = jax.tree.map(lambda x: x[member], params)
    if cfg.compile_cache:
        compile_cache.enable()
    played = _play(cfg, env, params, episodes, seed)
    return tuple(
        _write(presentation, episode, file, fps)
        for episode, file in zip(played, files, strict=True)
    )


def _check(
    cfg: config.ExperimentConfig, episodes: int, member: int, parameters: str, fps: float | None
) -> None:
    for allowed, message in (
        (episodes >= 1, f"episodes={episodes}; must be at least 1"),
        (
            0 <= member < cfg.seeds,
            f"member={member}, but the run has {cfg.seeds}; allowed: 0 to {cfg.seeds - 1}",
        ),
        (
            parameters in _PARAMETERS,
            f"parameters={parameters!r}; {config.suggest(parameters, _PARAMETERS)}",
        ),
        (fps is None or 0 < fps <= 50, f"fps={fps}; must be above 0 and at most 50 for a GIF"),
    ):
        if not allowed:
            raise config.ConfigError(f"render: {message}")


def _environment(cfg: config.ExperimentConfig, overrides: Mapping[str, Any]) -> envs.Env:
    """Returns the run's environment, or another that its agents can act in."""
    env = program.environment(cfg)
    if isinstance(env, envs.HostEnv):
        raise config.ConfigError(
            f"render: {env.spec.name} is stepped in Python; allowed: an environment in JAX"
        )
    if not overrides:
        return env
    for key in overrides:
        if not key.startswith("env.options."):
            raise config.ConfigError(
                f"render: {key} cannot change for a trained policy; allowed: env.options.*"
            )
    other = program.environment(config.with_values(cfg, overrides))
    assert isinstance(other, envs.Env), "the options choose within one module"
    for field in ("n_agents", "agent_groups", "actions", "obs_shapes"):
        trained, new = getattr(env.spec, field), getattr(other.spec, field)
        if trained != new:
            raise config.ConfigError(
                f"render: {other.spec.name} has {field}={new}, but the policy was trained on "
                f"{env.spec.name} with {field}={trained}; choose an environment of equal sizes"
            )
    return other


def _presentation(env: envs.Env) -> envs.Presentation:
    """Raises: ConfigError if the environment has no presentation, or an unknown painter."""
    presentation = env.presentation
    if presentation is None or not any(presentation):
        raise config.ConfigError(
            f"render: environment {env.spec.name!r} has no presentation; return one from its "
            "`make`: a Presentation with draw (a picture), describe (text) or scene "
            "(docs/render.md)"
        )
    if presentation.scene and presentation.scene.painter not in _PAINTERS:
        raise config.ConfigError(
            f"render: environment {env.spec.name!r} asks for painter={presentation.scene.painter!r}"
            f"; {config.suggest(presentation.scene.painter, tuple(_PAINTERS))}"
        )
    return presentation


def _files(out: pathlib.Path, episodes: int, suffix: str) -> list[pathlib.Path]:
    """Returns the path of every animation or transcript; creates their folder."""
    if out.suffix not in _SUFFIXES:
        files = [out / f"episode_{i}{suffix}" for i in range(episodes)]
    elif out.suffix != suffix:
        raise config.ConfigError(
            f"render: out={str(out)!r}, but this environment is rendered to a {suffix} file; "
            f"allowed: a file that ends in {suffix}, or a folder"
        )
    elif episodes > 1:
        raise config.ConfigError(
            f"render: out={str(out)!r} is one file, but episodes={episodes}; give a folder"
        )
    else:
        files = [out]
    with _write_errors(files[0].parent):
        files[0].parent.mkdir(parents=True, exist_ok=True)
    return files


@contextlib.contextmanager
def _write_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise config.ConfigError(
            f"render: cannot write {str(path)!r} ({error.strerror}); choose another --out"
        ) from error


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[BinaryIO]:
    with _write_errors(path), storage.atomic(path) as file:
        yield file


def _play(
    cfg: config.ExperimentConfig, env: envs.Env, params: Any, episodes: int, seed: int
) -> list[base.Episode]:
    """Plays the episodes of the first evaluation with this seed; returns NumPy arrays."""
    presentation = _presentation(env)

    def extract(env_state: Any) -> dict[str, Any]:
        recorded = {}
        if presentation.scene and not presentation.draw:
            recorded["scene"] = presentation.scene.arrays(env_state)
        if presentation.draw or presentation.describe:
            recorded["state"] = jax.tree.map(_key_data, env_state)
        return recorded

    mixer = mixers.absent() if cfg.algo.mixer else None  # acting needs none
    algorithm = program.make_algorithm(cfg, env.spec, mixer)
    stage = program.collector_setup(algorithm, env, episodes)

    def run(key: Array) -> evaluate.EpisodeBatch:
        event = train_step.stream(key, train_step.EVAL, jnp.zeros((), jnp.int32))
        return evaluate.record_episodes(
            stage, train_step.greedy_policy(algorithm, params), event, extract
        )

    precision = "default" if cfg.precision == "bfloat16" else cfg.precision
    with jax.default_matmul_precision(precision):  # as in training
        batch = population.map_seeds(run, [seed])
    return [
        _episode(env.spec, jax.tree.map(lambda x, i=i: x[0, :, i], batch)) for i in range(episodes)
    ]


def _key_data(leaf: Any) -> Any:
    """Converts PRNG keys to integers, as NumPy has no key type."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _episode(spec: EnvSpec, played: Any) -> base.Episode:
    """Returns one episode of a batch, without the steps after its end."""
    steps = int(played.valid.sum())
    recorded = jax.tree.map(lambda x: x[: steps + 1], played.extracted)
    metrics = {name: float(values[steps - 1]) for name, values in played.metrics.items()}
    ending = "lost" if "win_rate" in metrics else "finished"
    if metrics.get("win_rate", 0.0) > 0.5:
        ending = "won"
    elif played.truncated[steps - 1]:
        ending = "time limit"
    return base.Episode(
        spec=spec,
        states=recorded.get("state"),
        scene=recorded.get("scene"),
        actions=played.actions[:steps],
        rewards=played.reward[:steps],
        ending=ending,
        metrics=metrics,
    )


def _write(
    presentation: envs.Presentation, episode: base.Episode, file: pathlib.Path, fps: float | None
) -> Rendered:
    painter = _painter(presentation, episode)
    animated, described = file.suffix == ".gif", presentation.describe
    sheet, transcript = file.with_suffix(".png"), file.with_suffix(".txt")
    with _open(sheet) as stream:
        stream.write(pictures.sheet(episode, painter))
    if animated:
        animation = pictures.animate(episode, painter)
        fps = fps or painter.steps_per_second * painter.frames_per_step
        with _open(file) as stream:
            pictures.write_gif(stream, animation, fps)
    if described:
        with _open(transcript) as stream:
            stream.write(text.transcript(episode, described).encode())
    return Rendered(
        animation=file if animated else None,
        transcript=transcript if described else None,
        sheet=sheet,
        episode_return=float(np.sum(episode.rewards)),
        steps=episode.length,
        ending=episode.ending,
        metrics=episode.metrics,
    )


def _painter(presentation: envs.Presentation, episode: base.Episode) -> base.Painter:
    if presentation.draw:
        draw = presentation.draw
        return base.Painter(lambda axes, time: draw(axes, episode.frame(round(time))))
    if presentation.scene:
        return _PAINTERS[presentation.scene.painter](episode, presentation.scene.constants)
    assert presentation.describe is not None  # see `_presentation`
    return text.make(episode, presentation.describe)
