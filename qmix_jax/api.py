"""The Python face: train a configuration, get arrays and paths back."""

import dataclasses
import datetime
import os
import pathlib
import time
from typing import Any

import numpy as np

from qmix_jax import config, plan, population
from qmix_jax import program as programs
from qmix_jax.runtime import (
    compile_cache,
    devices,
    interrupt,
    loop,
    parameters,
    progress,
    provenance,
    report,
    sinks,
)
from qmix_jax.runtime.loop import NonFiniteError

__all__ = ["NonFiniteError", "Result", "train"]

_COLLECTED = {
    "episode": "one episode each, padding counted",
    "segment": "auto-reset",
    "window": "running on",
}
_STOPPING = "stopping after this call; Ctrl-C again ends at once"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      config: the configuration.
      plan: its arithmetic.
      directory: the run directory with `config.yaml`, `manifest.json`, `metrics.csv`,
        `metrics.jsonl`, `parameters_final.npz`, `parameters_best.npz` and `curves.png`.
      metrics: columns of `metrics.csv` -> array with one entry per row.
      parameters, best_parameters: nested dicts of numpy arrays, member axis first.
      tables: one array [P, ...] per decision point of the environment (matrix games), in reward
        units.
      interrupted: ended early by Ctrl-C.
    """

    config: config.ExperimentConfig
    plan: plan.Plan
    directory: pathlib.Path
    metrics: dict[str, np.ndarray]
    parameters: Any
    best_parameters: Any
    tables: tuple[np.ndarray, ...]
    interrupted: bool


def train(
    cfg: config.ExperimentConfig,
    directory: str | os.PathLike[str] | None = None,
    command: str | None = None,
) -> Result:
    """Trains a configuration to its end, showing progress and writing a run directory.

    Args:
      cfg: from `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`.
      command: what to record as the command; by default a call of this function.
    Returns:
      A `Result`. After Ctrl-C it holds what was reached.
    Raises:
      ConfigError: a setting that cannot be honoured, before anything is compiled.
      NonFiniteError: a member's loss is not finite; the run directory keeps everything before it.
    """
    if not isinstance(cfg, config.ExperimentConfig):
        raise config.ConfigError(
            f"train: got {type(cfg).__name__}, not a configuration; pass qmix_jax.load_config(...)"
        )
    notes = [devices.prepare(cfg.seeds, cfg.population.devices)]
    if cfg.compile_cache:
        notes.append(compile_cache.enable())
    program = programs.build(cfg)
    used = devices.local(cfg.seeds, cfg.population.devices)
    places = population.layout(cfg.seeds, used, cfg.population.batching)
    path = sinks.claim(directory or _default_directory(cfg))
    lines = [note for note in notes if note]
    with (
        progress.Progress() as display,
        interrupt.Interrupt(lambda: display.note(_STOPPING), display.abandon) as stop,
    ):
        for line in (*lines, *_start_lines(cfg, program, places)):
            display.note(line)
        members, compile_s = _compile(cfg, program, places, display)
        record = _Record(cfg, program, members, path, command or "qmix_jax.train", compile_s)
        record.begin()
        names = loop.columns(members.metric_names, program.spec.metric_names)
        with sinks.MetricsFiles(path, names) as files:
            outcome = loop.Run(
                members, program.plan, _seeds(cfg), files, display, lambda: stop.requested
            ).train()
        result = record.finish(outcome)
    if outcome.failure:
        raise outcome.failure
    _print_report(result, program, outcome, compile_s)
    return result


class _Record:
    """The files of one run besides its metrics."""

    def __init__(
        self,
        cfg: config.ExperimentConfig,
        program: programs.Program,
        members: population.Population,
        path: pathlib.Path,
        command: str,
        compile_s: float,
    ) -> None:
        self._cfg = cfg
        self._program = program
        self._members = members
        self._path = path
        self._command = command
        self._compile_s = compile_s

    def begin(self) -> None:
        """Writes what is known before training: the configuration and the manifest."""
        provenance.write_config(self._path / "config.yaml", config.dump(self._cfg))
        places = self._members.layout
        self._manifest = provenance.manifest(
            config.dump(self._cfg),
            self._command,
            places.devices,
            {
                "compile_s": {"total": self._compile_s, **self._members.compile_seconds},
                "parameters_per_member": self._members.parameter_counts,
                "plan": {**dataclasses.asdict(self._program.plan), "env": self._program.spec.name},
                "population": {
                    "members": places.n_members,
                    "inert_members": places.padding,
                    "batching": places.batching,
                },
                "precision": self._cfg.precision,
            },
        )
        provenance.write_json(self._path / "manifest.json", self._manifest)

    def finish(self, outcome: loop.Outcome) -> Result:
        """Writes parameters, curves and the finished manifest."""
        path, cfg = self._path, self._cfg
        parameters.save_parameters(path / "parameters_final.npz", outcome.parameters)
        parameters.save_parameters(path / "parameters_best.npz", outcome.best_parameters)
        reached = {
            "updates": outcome.update,
            "env_steps": outcome.env_steps,
            "gradient_steps": outcome.update * self._program.plan.gradient_steps,
            "train_s": outcome.train_s,
            "eval_s": outcome.eval_s,
            "interrupted": outcome.interrupted,
            "failure": str(outcome.failure) if outcome.failure else None,
        }
        provenance.write_json(path / "manifest.json", {**self._manifest, "reached": reached})
        title = f"{cfg.name}: {cfg.algo.name} on {self._program.spec.name}"
        report.curves(path / "metrics.csv", path / "curves.png", title)
        tables = self._members.tables(outcome.parameters)
        return Result(
            config=cfg,
            plan=self._program.plan,
            directory=path,
            metrics=sinks.read_metrics(path / "metrics.csv"),
            parameters=outcome.parameters,
            best_parameters=outcome.best_parameters,
            tables=tuple(table / cfg.hparams.reward_scale for table in tables),
            interrupted=outcome.interrupted,
        )


def _seeds(cfg: config.ExperimentConfig) -> list[int]:
    return [cfg.seed + i for i in range(cfg.seeds)]


def _default_directory(cfg: config.ExperimentConfig) -> pathlib.Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return pathlib.Path("runs", cfg.name, cfg.algo.name, now)


def _compile(
    cfg: config.ExperimentConfig,
    program: programs.Program,
    places: population.Layout,
    display: progress.Progress,
) -> tuple[population.Population, float]:
    started = time.perf_counter()
    numbers = [programs.hparams(cfg.hparams)] * cfg.seeds
    members = population.compile_programs(
        program, places, _seeds(cfg), numbers, cfg.precision, time.perf_counter
    )
    seconds = time.perf_counter() - started
    parts = ", ".join(f"{name} {s:.1f}" for name, s in members.compile_seconds.items())
    display.note(f"compiled in {seconds:.1f} s (side by side: {parts})")
    return members, seconds


def _start_lines(
    cfg: config.ExperimentConfig, program: programs.Program, places: population.Layout
) -> list[str]:
    """What the run will be, in exact figures."""
    plan_, human = program.plan, progress.human
    seeds = f"seeds {cfg.seed}..{cfg.seed + cfg.seeds - 1}" if cfg.seeds > 1 else f"seed {cfg.seed}"
    padding = f", {places.padding} inert" if places.padding else ""
    device = places.devices[0]
    updates = f"{plan_.n_updates:,} updates of {_count(plan_.gradient_steps, 'gradient step')}"
    collector = _COLLECTED[cfg.trainer.collector]
    collector += f", {plan_.burn_in} of burn-in" if plan_.burn_in else ""
    return [
        f"{cfg.name}: {cfg.algo.name} on {program.spec.name}, {seeds} on "
        f"{len(places.devices)} {device.platform} device(s) ({places.batching}{padding})",
        f"{plan_.env_steps:,} env steps per seed ({plan_.env_steps_at(0):,} of them warm-up) in "
        f"{updates}",
        f"one update collects {_count(cfg.trainer.n_envs, 'environment')} x {plan_.window} steps "
        f"({collector})",
        f"evaluation every {plan_.eval_every * plan_.steps_per_update:,} env steps, "
        f"{_count(cfg.eval.episodes, 'greedy episode')}; replay {plan_.capacity:,} sequences = "
        f"{human(plan_.replay_bytes)}B per seed",
    ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _print_report(
    result: Result, program: programs.Program, outcome: loop.Outcome, compile_s: float
) -> None:
    points = program.decision_points
    if points and program.joint_tables and program.spec.n_agents == 2:
        report.joint_tables(points, result.tables)
    elif points and not program.joint_tables:
        report.utility_tables(points, result.tables)
    totals = report.Totals(
        env_steps=outcome.env_steps,
        gradient_steps=outcome.update * result.plan.gradient_steps,
        compile_s=compile_s,
        train_s=outcome.train_s,
        eval_s=outcome.eval_s,
    )
    if outcome.interrupted:
        print("interrupted: the results are those of an unfinished run")
    names = (
        "curves.png",
        "metrics.csv",
        "parameters_best.npz",
        "parameters_final.npz",
        "manifest.json",
    )
    report.summary(result.metrics, totals, [result.directory / name for name in names])
