"""Greedy episodes of a trained run as animations, contact sheets and transcripts."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config, evaluate, population, program, train_step
from qmix_jax.envs import base as envs
from qmix_jax.machine import compile_cache
from qmix_jax.mixers import base as mixers
from qmix_jax.render import base, battle, cells, gif, kitchen, maze, particles, pictures, text
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
_FILES = (".gif", ".txt", ".png")


class Rendered(NamedTuple):
    """One episode and where to look at it.

    Attributes:
      animation: a GIF; None where the environment can only be told in words.
      transcript: a text file; None where it can only be drawn.
      sheet: a PNG of evenly spaced moments.
      returned: the sum of the raw rewards, as evaluation counts them.
      steps: env steps.
      ending: `won`, `lost`, `time limit` or `finished`.
      metrics: the environment's own, of this episode.
    """

    animation: pathlib.Path | None
    transcript: pathlib.Path | None
    sheet: pathlib.Path
    returned: float
    steps: int
    ending: str
    metrics: dict[str, float]


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
    """Plays greedy episodes of a trained run and draws them, or tells them in words.

    They are the episodes of the first evaluation of a run with that seed and `eval.episodes`.

    Args:
      directory: a run directory.
      episodes: how many.
      seed: of the episodes; it does not have to be one of the run's.
      member: which of the run's members plays.
      parameters: `best` (by evaluation) or `final`.
      fps: frames per second of the GIF; by default what suits the environment. At most 50.
      out: the folder to write `episode_0.gif`, `episode_0.png`, ... to; by default `render` in the
        run directory. Or the file, `*.gif` or `*.txt`, of a single episode.
      overrides: other values of `env.options.*`, such as another scenario; observations and actions
        must keep their sizes.
    Returns:
      A record per episode.
    Raises:
      ConfigError: not a run directory, a value that is not allowed, an environment that offers
        nothing to show, or a place that cannot be written to.
    """
    root = pathlib.Path(directory)
    cfg = metadata.read_run_config(root)
    _check(cfg, episodes, member, parameters, fps)
    env = _environment(cfg, overrides or {})
    shown = _presentation(env)
    suffix = ".gif" if shown.draw or shown.scene else ".txt"
    files = _files(pathlib.Path(out or root / "render"), episodes, suffix)
    params = saved.load_parameters(root / f"parameters_{parameters}.npz")
    own = jax.tree.map(lambda x: x[member], params)
    if cfg.compile_cache:
        compile_cache.enable()
    played = _play(cfg, env, own, episodes, seed)
    return tuple(
        _write(shown, episode, file, fps) for episode, file in zip(played, files, strict=True)
    )


def _check(
    cfg: config.ExperimentConfig, episodes: int, member: int, parameters: str, fps: float | None
) -> None:
    if episodes < 1:
        raise config.ConfigError(f"render: episodes={episodes}; must be at least 1")
    if not 0 <= member < cfg.seeds:
        raise config.ConfigError(
            f"render: member={member}, but the run has {cfg.seeds}; allowed: 0 to {cfg.seeds - 1}"
        )
    if parameters not in _PARAMETERS:
        raise config.ConfigError(
            f"render: parameters={parameters!r}; {config.suggest(parameters, _PARAMETERS)}"
        )
    if fps is not None and not 0 < fps <= 50:
        raise config.ConfigError(
            f"render: fps={fps:g}; a GIF shows more than 0 and at most 50 frames per second"
        )


def _environment(cfg: config.ExperimentConfig, overrides: Mapping[str, Any]) -> envs.Env:
    """The run's environment, or another that its agents can play."""
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
    for fact in ("n_agents", "agent_groups", "actions", "obs_shapes"):
        trained, wanted = getattr(env.spec, fact), getattr(other.spec, fact)
        if trained != wanted:
            raise config.ConfigError(
                f"render: {other.spec.name} has {fact}={wanted}, but the policy was trained on "
                f"{env.spec.name} with {fact}={trained}; choose one of equal sizes"
            )
    return other


def _presentation(env: envs.Env) -> envs.Presentation:
    """How the environment is shown. Raises: ConfigError where it does not say."""
    shown = env.presentation
    if shown is None or not any(shown):
        raise config.ConfigError(
            f"render: environment {env.spec.name!r} does not say how it looks; allowed: a "
            "Presentation with draw (a picture), describe (text) or scene, from its `make` "
            "(docs/render.md)"
        )
    if shown.scene and shown.scene.painter not in _PAINTERS:
        raise config.ConfigError(
            f"render: environment {env.spec.name!r} wants painter={shown.scene.painter!r}; "
            f"{config.suggest(shown.scene.painter, tuple(_PAINTERS))}"
        )
    return shown


def _files(out: pathlib.Path, episodes: int, suffix: str) -> list[pathlib.Path]:
    """The animation or transcript of every episode; makes their folder."""
    if out.suffix not in _FILES:
        files = [out / f"episode_{i}{suffix}" for i in range(episodes)]
    elif out.suffix != suffix:
        raise config.ConfigError(
            f"render: out={str(out)!r}, but this environment becomes a {suffix} file; allowed: a "
            f"name that ends in {suffix}, or a folder"
        )
    elif episodes > 1:
        raise config.ConfigError(
            f"render: out={str(out)!r} is one file for episodes={episodes}; give a folder"
        )
    else:
        files = [out]
    with _writing(files[0].parent):
        files[0].parent.mkdir(parents=True, exist_ok=True)
    return files


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Raises: ConfigError where that cannot be done."""
    try:
        yield
    except OSError as error:
        raise config.ConfigError(
            f"render: cannot write {str(path)!r} ({error.strerror}); choose another place by --out"
        ) from error


def _play(
    cfg: config.ExperimentConfig, env: envs.Env, params: Any, episodes: int, seed: int
) -> list[base.Episode]:
    """The episodes that the first evaluation with this seed plays, on the host."""
    presentation = _presentation(env)

    def look(env_state: Any) -> dict[str, Any]:
        kept = {}
        if presentation.scene and not presentation.draw:
            kept["scene"] = presentation.scene.look(env_state)
        if presentation.draw or presentation.describe:
            kept["state"] = jax.tree.map(_without_keys, env_state)
        return kept

    mixer = mixers.absent() if cfg.algo.mixer else None  # nothing is learnt
    algorithm = program.make_algorithm(cfg, env.spec, mixer)
    stage = program.collector_setup(algorithm, env, episodes)

    def run(key: Array) -> evaluate.EpisodeBatch:
        event = train_step.stream(key, train_step.EVAL, jnp.zeros((), jnp.int32))
        return evaluate.record_episodes(
            stage, train_step.greedy_policy(algorithm, params), event, look
        )

    precision = "default" if cfg.precision == "bfloat16" else cfg.precision
    with jax.default_matmul_precision(precision):  # as in training
        played = population.map_seeds(run, [seed])
    each = (jax.tree.map(lambda x, i=i: x[0, :, i], played) for i in range(episodes))
    return [_cut(env.spec, one) for one in each]


def _without_keys(leaf: Any) -> Any:
    """NumPy has no typed keys: their numbers."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _cut(spec: EnvSpec, played: Any) -> base.Episode:
    """One episode up to its end."""
    steps = int(played.valid.sum())
    shown = jax.tree.map(lambda x: x[: steps + 1], played.extracted)
    metrics = {name: float(values[steps - 1]) for name, values in played.metrics.items()}
    return base.Episode(
        spec=spec,
        states=shown.get("state"),
        scene=shown.get("scene"),
        actions=played.actions[:steps],
        rewards=played.reward[:steps],
        ending=_ending(bool(played.truncated[steps - 1]), metrics),
        metrics=metrics,
    )


def _ending(truncated: bool, metrics: Mapping[str, float]) -> str:
    if metrics.get("win_rate", 0.0) > 0.5:
        return "won"
    if truncated:
        return "time limit"
    return "lost" if "win_rate" in metrics else "finished"


def _write(
    shown: envs.Presentation, episode: base.Episode, file: pathlib.Path, fps: float | None
) -> Rendered:
    painter = _painter(shown, episode)
    drawn = file.suffix == ".gif"
    sheet, transcript = file.with_suffix(".png"), file.with_suffix(".txt")
    with _writing(sheet), storage.atomic(sheet) as target:
        target.write(pictures.sheet(episode, painter))
    if drawn:
        film = pictures.film(episode, painter)
        with _writing(file), storage.atomic(file) as target:
            gif.write(target, film, fps or painter.steps_per_second * painter.frames_per_step)
    if shown.describe:
        with _writing(transcript), storage.atomic(transcript) as target:
            target.write(text.transcript(episode, shown.describe).encode())
    return Rendered(
        animation=file if drawn else None,
        transcript=transcript if shown.describe else None,
        sheet=sheet,
        returned=float(np.sum(episode.rewards)),
        steps=base.length(episode),
        ending=episode.ending,
        metrics=episode.metrics,
    )


def _painter(shown: envs.Presentation, episode: base.Episode) -> base.Painter:
    if shown.draw:
        draw = shown.draw
        return base.Painter(lambda axes, time: draw(axes, base.shot(episode, round(time))))
    if shown.scene:
        return _PAINTERS[shown.scene.painter](episode, shown.scene.facts)
    assert shown.describe is not None  # `_presentation`
    return text.make(episode, shown.describe)
