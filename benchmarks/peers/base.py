"""One run of another project's QMIX: what is asked of it, what came back, and the process.

Each peer has a worker script that runs under the peer's own interpreter, with its own packages;
this module starts it, gives it the work as JSON, and reads what it measured from a file.
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
    """A peer that cannot be run as asked: what, where and how to fix it, in one line."""


class Peer(NamedTuple):
    """A worker script, and the file by which a checkout of the peer is known (None: a package)."""

    worker: pathlib.Path
    marker: str | None


PEERS: dict[str, Peer] = {
    "jaxmarl": Peer(_FOLDER / "jaxmarl_worker.py", "baselines/QLearning/qmix_rnn.py"),
    "epymarl": Peer(_FOLDER / "epymarl_worker.py", "src/run.py"),
    "xuance": Peer(_FOLDER / "xuance_worker.py", None),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a peer is asked to train; numbers are per seed, steps are env steps unless said.

    environment: one of `ENVIRONMENTS`.
    seed, seeds: the first seed, and how many run together in one program.
    shipped: keep the peer's own configuration; only environment, seeds and env_steps are used.
    rollout_steps: env steps of each environment between two learning phases.
    gradient_steps: gradient steps per rollout of all environments.
    batch_size, capacity: sequences (one environment's rollout each).
    warm_up: env steps before the first gradient step, at least.
    target_period: gradient steps between copies to the target networks.
    epsilon_steps: env steps over which exploration falls from 1 to `epsilon_end`.
    evaluate: greedy tests during training (in the timing); off for comparisons of speed.
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
    """One greedy test: training so far, and the result of each seed (None where none ended)."""

    env_steps: int
    wall_seconds: float
    returns: tuple[float | None, ...]
    win_rates: tuple[float | None, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a peer did; steps are per seed, `env_steps_per_s` is of all seeds together.

    version: package version and commit of the checkout.
    settings: the peer's own names and the values really used.
    learning_free_env_steps: env steps before the first gradient step.
    compile_seconds: tracing and compiling; None where nothing is compiled.
    run_seconds: wall time of training after that; None if `limit` ended it.
    cpu_seconds: processor time of the peer's main process in `run_seconds`, all threads; where a
      peer computes all the time, `run_seconds` above this tells of other load on the machine.
    curve: greedy tests; `wall_seconds` counts from the start of `run_seconds`.
    notes: what is not equal to other entries of a table.
    limit: "> x s" if the time limit ended the run; what had been reported until then is kept.
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
    """One JSON line."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True)


def work_from(environment: str, settings: Sequence[str]) -> Work:
    """A `Work` from `key=value` texts. Raises: PeerError for a key or value that does not fit."""
    fields = {field.name: field.type for field in dataclasses.fields(Work)}
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in fields:
            raise PeerError(f"setting {setting!r}: give key=value, keys: {', '.join(fields)}")
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
            raise PeerError(f"{key}={text}: not a number") from None
    if kind is bool and not isinstance(value, bool):
        raise PeerError(f"{key}={text}: true or false")
    return value


def outcome_from(raw: Mapping[str, Any]) -> Outcome:
    """The inverse of `to_json` for an `Outcome`, after `json.loads`."""
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
    """Trains with a peer in a process of its own, under its own interpreter.

    Args:
      peer: a key of `PEERS`.
      work: what to train.
      python: the interpreter that has the peer's packages (this project need not be there).
      checkout: the peer's source tree, for peers that are not a package.
      timeout: seconds of wall time, compiling included, after which the process is ended.
      environ: variables set for the process on top of this one's, e.g. {"PJRT_NPROC": "4"}.
      log: file for what the peer prints; dropped by default.
    Returns:
      What was measured; `limit` is set where the time limit ended the run.
    Raises:
      PeerError: unknown peer or environment, missing interpreter, checkout or package, a setting
        that the peer does not have, or a run that failed.
    """
    source = _check(peer, work, python, checkout)
    task = {"work": dataclasses.asdict(work), "checkout": source, "environ": dict(environ or {})}
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        out = pathlib.Path(folder) / "outcome.json"
        printed = os.path.abspath(log) if log is not None else os.devnull
        command = [python, str(PEERS[peer].worker), str(out), printed]
        code = _process(
            command, json.dumps(task), folder, {**os.environ, **task["environ"]}, timeout
        )
        report = json.loads(out.read_text()) if out.exists() else {}
    return _outcome(peer, report, code, timeout)


def _check(peer: str, work: Work, python: str, checkout: str | os.PathLike[str] | None) -> str:
    """The checkout's absolute path ("" for a package); PeerError for what cannot be started."""
    if peer not in PEERS:
        raise PeerError(f"peer: unknown {peer!r}; one of {', '.join(PEERS)}")
    if work.environment not in ENVIRONMENTS:
        allowed = ", ".join(ENVIRONMENTS)
        raise PeerError(f"{peer}: unknown environment {work.environment!r}; one of {allowed}")
    if shutil.which(python) is None:
        raise PeerError(f"{peer}: no interpreter {python!r}; give the python that has its packages")
    marker = PEERS[peer].marker
    if marker is None:
        return ""
    if checkout is None:
        raise PeerError(f"{peer}: needs a checkout of its sources (with {marker}); give its path")
    folder = pathlib.Path(checkout).expanduser().resolve()
    if not (folder / marker).is_file():
        raise PeerError(f"{peer}: {folder} is not a checkout of it: no {marker}")
    return str(folder)


def _process(
    command: list[str], task: str, folder: str, environ: Mapping[str, str], timeout: float
) -> int | None:
    """The exit code, or None if the time limit ended the process and what it had started."""
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
            _end_group(process.pid)
    return process.returncode


def _end_group(leader: int) -> None:
    """Ends the worker, if it still runs, and its environment processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _outcome(peer: str, report: Mapping[str, Any], code: int | None, timeout: float) -> Outcome:
    """The worker's last report as a record."""
    if "error" in report:
        raise PeerError(f"{peer}: {report['error']}")
    if code is None:
        limit = f"> {timeout:g} s"
        return outcome_from({**_EMPTY, **report.get("outcome", {}), "peer": peer, "limit": limit})
    if code != 0 or "outcome" not in report:
        raise PeerError(f"{peer}: the worker ended without a result (exit code {code}); see `log`")
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
