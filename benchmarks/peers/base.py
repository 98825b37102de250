"""Runs another project's QMIX in a separate process.

Each peer has a worker script that runs under the peer's interpreter and packages. This module
starts the worker, sends it the `Work` as JSON, and reads the `Outcome` from a file.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

ENVIRONMENTS = ("smax_3m", "smax_2s3z", "mpe_spread")
_FOLDER = pathlib.Path(__file__).resolve().parent


class PeerError(ValueError):
    """A peer cannot run the work; the message is one line with a fix."""


class Peer(NamedTuple):
    """A worker script, and a file that identifies a checkout of the peer (None: a package)."""

    worker: pathlib.Path
    marker: str | None


PEERS: dict[str, Peer] = {
    "jaxmarl": Peer(_FOLDER / "jaxmarl_worker.py", "baselines/QLearning/qmix_rnn.py"),
    "epymarl": Peer(_FOLDER / "epymarl_worker.py", "src/run.py"),
    "xuance": Peer(_FOLDER / "xuance_worker.py", None),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """A training task; counts are per seed.

    Attributes:
      environment: one of `ENVIRONMENTS`.
      seed, seeds: the first seed, and the number of seeds in one run.
      shipped: use the peer's default configuration; only environment, seeds and env_steps apply.
      rollout_steps: env steps of each environment per rollout.
      gradient_steps: per rollout of all environments.
      batch_size, capacity: in sequences, each one environment's rollout.
      warm_up: minimum env steps before the first gradient step.
      target_period: gradient steps between target-network updates.
      epsilon_steps: env steps over which epsilon decreases from 1 to `epsilon_end`.
      evaluate: run greedy evaluations, which are part of the timing; off to compare speed.
    """

    environment: str
    env_steps: int
    agent: Literal["gru", "mlp"] = "gru"
    seed: int = 0
    seeds: int = 1
    shipped: bool = False
    n_envs: int = 8
    rollout_steps: int = 26
    gradient_steps: int = 1
    batch_size: int = 32
    capacity: int = 5_000
    warm_up: int = 10_000
    hidden: int = 64
    mixer_embed: int = 32
    hypernet_embed: int = 64
    learning_rate: float = 5e-4
    max_grad_norm: float = 10.0
    gamma: float = 0.99
    reward_scale: float = 1.0
    target_period: int = 200
    epsilon_steps: int = 50_000
    epsilon_end: float = 0.05
    evaluate: bool = False
    eval_every: int = 50_000
    eval_episodes: int = 128


@dataclasses.dataclass(frozen=True)
class Point:
    """One greedy evaluation; the results of each seed are None if no episode ended."""

    env_steps: int
    wall_seconds: float
    returns: tuple[float | None, ...]
    win_rates: tuple[float | None, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Measurements of a run; steps are per seed, `env_steps_per_s` is the total over seeds.

    Attributes:
      version: package version and commit of the checkout.
      settings: the peer's configuration, in its own names.
      learning_free_env_steps: env steps before the first gradient step.
      compile_seconds: tracing and compilation; None if nothing is compiled.
      run_seconds: wall time of training without compilation; None if `limit` ended the run.
      cpu_seconds: processor time of the peer's main process, all threads, during `run_seconds`. If
        the peer is never idle, a larger `run_seconds` indicates other load on the machine.
      curve: greedy evaluations; `wall_seconds` counts from the start of `run_seconds`.
      notes: differences from the other entries of a table.
      limit: "> x s" if the time limit ended the run; the other fields are those last reported.
    """

    peer: str
    version: str
    settings: Mapping[str, Any]
    env_steps: int
    gradient_steps: int | None
    learning_free_env_steps: int | None
    compile_seconds: float | None
    run_seconds: float | None
    env_steps_per_s: float | None
    cpu_seconds: float | None = None
    curve: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()
    limit: str | None = None


def to_json(record: Work | Outcome) -> str:
    """Returns one JSON line."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True)


def work_from(environment: str, settings: Sequence[str]) -> Work:
    """Parses `key=value` settings. Raises: PeerError for an unknown key or an invalid value."""
    fields = {field.name: field.type for field in dataclasses.fields(Work)}
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in fields:
            raise PeerError(f"setting {setting!r}: expected key=value; keys: {', '.join(fields)}")
        values[key] = _value(key, text, fields[key])
    if "env_steps" not in values:
        raise PeerError("env_steps is missing; add env_steps=200_000")
    return Work(environment=environment, **values)


def _value(key: str, text: str, kind: object) -> object:
    value = yaml.safe_load(text)
    if kind in (int, float):
        try:
            value = kind(float(text))
        except ValueError:
            raise PeerError(f"{key}={text}: expected a number") from None
    if kind is bool and not isinstance(value, bool):
        raise PeerError(f"{key}={text}: expected true or false")
    return value


def outcome_from(raw: Mapping[str, Any]) -> Outcome:
    """Restores an `Outcome` from its parsed JSON."""
    points = tuple(
        Point(
            env_steps=point["env_steps"],
            wall_seconds=point["wall_seconds"],
            returns=tuple(point["returns"]),
            win_rates=None if point["win_rates"] is None else tuple(point["win_rates"]),
        )
        for point in raw["curve"]
    )
    return Outcome(**{**raw, "curve": points, "notes": tuple(raw["notes"])})


def run(
    peer: str,
    work: Work,
    *,
    python: str,
    checkout: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
    environ: Mapping[str, str] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> Outcome:
    """Trains with a peer in a separate process.

    Args:
      peer: a key of `PEERS`.
      work: the training task.
      python: interpreter with the peer's packages; it does not need this project.
      checkout: source tree of the peer, unless the peer is a package.
      timeout: wall seconds, compilation included, after which the process is killed.
      environ: additional environment variables of the process, such as {"PJRT_NPROC": "4"}.
      log: file for the peer's output, which is discarded by default.
    Returns:
      The measurements; `limit` is set if the time limit ended the run.
    Raises:
      PeerError: unknown peer or environment, missing interpreter, checkout or package, a setting
        that the peer does not support, or a failed run.
    """
    source = _check(peer, work, python, checkout)
    task = {"work": dataclasses.asdict(work), "checkout": source, "environ": dict(environ or {})}
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        out = pathlib.Path(folder) / "outcome.json"
        log = os.path.abspath(log) if log is not None else os.devnull
        command = [python, str(PEERS[peer].worker), str(out), log]
        code = _process(
            command, json.dumps(task), folder, {**os.environ, **task["environ"]}, timeout
        )
        report = json.loads(out.read_text()) if out.exists() else {}
    return _outcome(peer, report, code, timeout)


def _check(peer: str, work: Work, python: str, checkout: str | os.PathLike[str] | None) -> str:
    """Returns the absolute path of the checkout, "" for a package. Raises: PeerError."""
    if peer not in PEERS:
        raise PeerError(f"unknown peer {peer!r}; allowed: {', '.join(PEERS)}")
    if work.environment not in ENVIRONMENTS:
        allowed = ", ".join(ENVIRONMENTS)
        raise PeerError(f"{peer}: unknown environment {work.environment!r}; allowed: {allowed}")
    if shutil.which(python) is None:
        raise PeerError(f"{peer}: no interpreter {python!r}; give one with the peer's packages")
    marker = PEERS[peer].marker
    if marker is None:
        return ""
    if checkout is None:
        raise PeerError(f"{peer}: needs a checkout with {marker}; give its path")
    folder = pathlib.Path(checkout).expanduser().resolve()
    if not (folder / marker).is_file():
        raise PeerError(f"{peer}: {folder} is not a checkout: it has no {marker}")
    return str(folder)


def _process(
    command: list[str], task: str, folder: str, environ: Mapping[str, str], timeout: float
) -> int | None:
    """Returns the exit code, or None at the time limit; kills the process and its children."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        env=environ,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            process.communicate(task, timeout=timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(process.pid)
    return process.returncode


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _outcome(peer: str, report: Mapping[str, Any], code: int | None, timeout: float) -> Outcome:
    """Converts the worker's last report."""
    if "error" in report:
        raise PeerError(f"{peer}: {report['error']}")
    if code is None:
        limit = f"> {timeout:g} s"
        return outcome_from({**_EMPTY, **report.get("outcome", {}), "peer": peer, "limit": limit})
    if code != 0 or "outcome" not in report:
        raise PeerError(f"{peer}: the worker wrote no result (exit code {code}); see its `log`")
    return outcome_from({**_EMPTY, **report["outcome"], "peer": peer})


_EMPTY: dict[str, Any] = {
    "version": "unknown",
    "settings": {},
    "env_steps": 0,
    "gradient_steps": None,
    "learning_free_env_steps": None,
    "compile_seconds": None,
    "run_seconds": None,
    "env_steps_per_s": None,
    "curve": (),
    "notes": (),
}
