"""Entrants of a comparison: qmix_jax, the PyTorch baseline and peers, each in its own process."""

import argparse
import csv
import dataclasses
import itertools
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.peers import base

Entrant = Callable[[base.Work, float], base.Outcome]
"""`(work, seconds allowed) -> outcome`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that select peers, seeds and the output file."""
    for peer, spec in base.PEERS.items():
        names = ("PYTHON", "CHECKOUT") if spec.marker else ("PYTHON",)
        parser.add_argument(f"--{peer}", nargs=len(names), metavar=names, help=f"include {peer}")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per run (default: 1)")
    default = pathlib.Path("runs/benchmarks.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=default, help=f"(default: {default})")


def peers(options: argparse.Namespace) -> dict[str, Entrant]:
    """Returns the peers selected on the command line."""
    paths = {peer: getattr(options, peer) for peer in base.PEERS}
    return {peer: _peer(peer, *arguments) for peer, arguments in paths.items() if arguments}


def _peer(peer: str, python: str, checkout: str | None = None) -> Entrant:
    # JaxMARL's initialisation of several seeds hangs on two cores without this (jaxlib 0.10.2).
    environ = {"PJRT_NPROC": "4"} if peer == "jaxmarl" else {"OMP_NUM_THREADS": "1"}

    def enter(work: base.Work, timeout: float) -> base.Outcome:
        extra = environ if peer != "jaxmarl" or work.seeds > 1 else {}
        return base.run(
            peer, work, python=python, checkout=checkout, timeout=timeout, environ=extra
        )

    return enter


def ours(extra: Sequence[str] = ()) -> Entrant:
    """Returns `qmix-jax train` with the work's settings, then `extra` overrides."""

    def enter(work: base.Work, timeout: float) -> base.Outcome:
        with tempfile.TemporaryDirectory(prefix="ours-") as folder:
            run = pathlib.Path(folder, "run")
            settings = [*overrides(work), *extra]
            command = [
                sys.executable, "-m", "qmix_jax", "train", *settings,
                f"hydra.run.dir={run}", "compile_cache=false",
            ]  # fmt: skip
            limit = _run_process(command, timeout)
            return _read(run, work, settings, limit)

    return enter


def pytorch(work: base.Work, timeout: float) -> base.Outcome:
    """Runs the PyTorch baseline on PettingZoo's simple_spread, with this interpreter's torch.

    Raises: PeerError for several seeds, other environments, or a failed run.
    """
    if work.seeds > 1 or work.environment != "mpe_spread":
        raise base.PeerError("pytorch: trains one seed on mpe_spread only; omit --torch")
    settings = _torch_settings(work)
    command = [sys.executable, "-m", "benchmarks.pytorch", json.dumps(settings)]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise base.PeerError(
            f"pytorch: not finished after {timeout:g} s; raise --timeout"
        ) from None
    if process.returncode:
        raise base.PeerError(f"pytorch: {process.stderr.strip().splitlines()[-1]}")
    result = json.loads(process.stdout.splitlines()[-1])
    return base.Outcome(
        peer="pytorch",
        version="benchmarks/pytorch",
        settings=settings,
        env_steps=result["env_steps"],
        gradient_steps=result["gradient_steps"],
        learning_free_env_steps=result["warm_up"]["env_steps"],
        compile_seconds=None,
        run_seconds=result["seconds"],
        env_steps_per_s=result["env_steps"] / result["seconds"],
        curve=tuple(
            base.Point(row["env_steps"], row["seconds"], (row["return"],))
            for row in result["evaluations"]
        ),
        notes=("environments in 2 worker processes, one PyTorch thread",),
    )


def _torch_settings(work: base.Work) -> dict[str, Any]:
    """Returns the fields of the baseline's `train.Settings`."""
    return {
        "env": "spread",
        "max_cycles": work.rollout_steps,
        "env_steps": work.env_steps,
        "warm_up": work.warm_up,
        "n_envs": work.n_envs,
        "gradient_steps": work.gradient_steps,
        "batch_size": work.batch_size,
        "capacity": work.capacity // work.n_envs * work.n_envs,
        "epsilon_steps": work.epsilon_steps,
        "eval_every": work.eval_every if work.evaluate else None,
        "eval_episodes": work.eval_episodes,
        "seed": work.seed,
        "widths": {
            "hidden": work.hidden,
            "embed_dim": work.mixer_embed,
            "hypernet_embed": work.hypernet_embed,
        },
        "learner": {
            "optimiser": "adam",
            "learning_rate": work.learning_rate,
            "max_grad_norm": work.max_grad_norm,
            "gamma": work.gamma,
            "target_period": work.target_period,
        },
    }


def overrides(work: base.Work) -> list[str]:
    """Returns the work as overrides of qmix_jax; `shipped` work uses its defaults."""
    common = [
        f"experiment={work.environment}",
        f"seed={work.seed}",
        f"seeds={work.seeds}",
        f"trainer.env_steps={work.env_steps}",
    ]
    if work.shipped:
        return common
    every = work.eval_every if work.evaluate else 10 * work.env_steps
    # Episodes of simple_spread are as long as a rollout, so none is reset inside one.
    collector = "episode" if work.environment == "mpe_spread" else "segment"
    return [
        *common,
        f"trainer.collector={collector}",
        f"trainer.n_envs={work.n_envs}",
        f"trainer.window={work.rollout_steps}",
        f"trainer.gradient_steps={work.gradient_steps}",
        f"trainer.warm_up={work.warm_up}",
        f"replay.batch_size={work.batch_size}",
        f"replay.capacity={work.capacity // work.n_envs * work.n_envs}",
        f"agent.options.hidden={work.hidden}",
        f"algo.mixer.options.embed_dim={work.mixer_embed}",
        f"algo.mixer.options.hypernet_embed={work.hypernet_embed}",
        f"hparams.learning_rate={work.learning_rate}",
        f"hparams.max_grad_norm={work.max_grad_norm}",
        f"hparams.gamma={work.gamma}",
        f"hparams.reward_scale={work.reward_scale}",
        f"hparams.target_period={work.target_period}",
        f"hparams.epsilon.steps={work.epsilon_steps}",
        "hparams.td_lambda=0.0",
        f"eval.every={every}",
        f"eval.episodes={work.eval_episodes}",
    ]


def learning_with_jaxmarl(work: base.Work) -> base.Work:
    """Extends the warm-up to JaxMARL's, which learns only after `batch_size` rollouts of all
    environments.
    """
    first = work.batch_size * work.n_envs * work.rollout_steps
    return dataclasses.replace(work, warm_up=max(work.warm_up, first))


def _run_process(command: Sequence[str], timeout: float) -> str | None:
    """Runs to the end or the time limit; SIGINT lets the run write its results."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    started = time.monotonic()
    try:
        _, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(2)
        process.communicate()
        return f"> {time.monotonic() - started:.0f} s"
    if process.returncode:
        raise base.PeerError(f"ours: {error.strip().splitlines()[-1]}")
    return None


def _read(
    run: pathlib.Path, work: base.Work, settings: Sequence[str], limit: str | None
) -> base.Outcome:
    manifest = json.loads((run / "manifest.json").read_text())
    reached, plan = manifest["reached"], manifest["plan"]
    return base.Outcome(
        peer="qmix_jax",
        version=manifest["versions"]["qmix_jax"],
        settings={"overrides": list(settings)},
        env_steps=reached["env_steps"],
        gradient_steps=reached["gradient_steps"],
        learning_free_env_steps=plan["warm_up_collects"] * plan["steps_per_update"],
        compile_seconds=manifest["compile_s"]["total"],
        run_seconds=reached["train_s"],
        env_steps_per_s=reached["env_steps"] * work.seeds / reached["train_s"],
        curve=tuple(_curve(run / "metrics.csv")),
        limit=limit,
    )


def _curve(path: pathlib.Path) -> Iterator[base.Point]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "eval"]
    for env_steps, group in itertools.groupby(rows, key=lambda row: int(row["env_steps"])):
        seeds = list(group)
        wins = [row.get("eval/win_rate") for row in seeds]
        yield base.Point(
            env_steps=env_steps,
            wall_seconds=float(seeds[0]["time_s"]),
            returns=tuple(float(row["eval/return"]) for row in seeds),
            win_rates=tuple(map(float, wins)) if all(wins) else None,  # pyright: ignore
        )


def mean(values: Sequence[float | None] | None) -> float:
    """Returns the mean over seeds, NaN if there are no values."""
    known = [value for value in values or () if value is not None]
    return statistics.fmean(known) if known else math.nan


def seconds_to(outcome: base.Outcome, target: float) -> float | None:
    """Returns the wall seconds, compilation included, to a mean win rate of `target`, or None."""
    for point in outcome.curve:
        if mean(point.win_rates) >= target:
            return (outcome.compile_seconds or 0.0) + point.wall_seconds
    return None
