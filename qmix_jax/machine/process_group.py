"""The processes of a distributed run: shares, messages and failures.

Processes exchange short texts through the key-value store of `jax.distributed`; there are no
collectives, and no arrays are sent.
"""

import atexit
import contextlib
import itertools
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax._src import distributed  # the key-value store is not public; checked with jax 0.10.2

from qmix_jax import config

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Environment variables that identify a process where JAX detects no cluster."""

_calls = itertools.count()
_POLL_S = 0.1
_CHECK_S = 1.0
BEAT_S = 5.0
"""Seconds between two heartbeats."""
LOST_S = 60.0
"""Seconds without a heartbeat after which a process counts as lost."""
_ABSENT_S = 600.0
"""The same for a process that has not reached this call of `train` yet."""
_EXIT_S = 300.0
"""Seconds that process 0 waits at exit for the others."""


class ProcessError(RuntimeError):
    """Another process failed or was lost; there is no result."""


class ProcessGroup(contextlib.AbstractContextManager["ProcessGroup"]):
    """The processes that share one call of `train`; a single one if the run is not distributed.

    All processes must call the same methods in the same order. Inside the context a thread sends
    heartbeats, and an error that leaves the context is sent to the others.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None) -> None:
        """Args:
        index: of this process.
        count: number of processes.
        client: of the key-value store; None for a single process.
        """
        self.index = index
        self.count = count
        self._client = client
        self._prefix = f"qmix_jax/{next(_calls)}"
        self._ended = threading.Event()
        self._stopping = False
        self._next_check = 0.0
        self._last_beats: dict[str, tuple[str, float]] = {}

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which writes the results and prints."""
        return self.index == 0

    def share(self, n_members: int) -> range:
        """Returns the members of this process; shares are contiguous and differ by one at most."""
        each, more = divmod(n_members, self.count)
        begin = self.index * each + min(self.index, more)
        return range(begin, begin + each + (self.index < more))

    def gather(self, name: str, value: Any) -> list[Any]:
        """Waits for all processes and returns their values in order.

        Args:
          name: unique in a call of `train`.
          value: JSON-serialisable.
        Raises:
          ProcessError: another process failed or was lost.
        """
        if self.count == 1:
            return [value]
        folder = f"{self._prefix}/{name}/"
        self._set(f"{folder}{self.index}", json.dumps(value))
        while len(values := self._entries(folder)) < self.count:
            self._check()
            time.sleep(_POLL_S)
        return [json.loads(values[str(i)]) for i in range(self.count)]

    def paths(self, name: str, paths: Sequence[str | os.PathLike[str]]) -> list[pathlib.Path]:
        """Returns process 0's paths in all processes: default paths contain the time."""
        agreed = self.gather(name, [os.path.abspath(path) for path in paths])[0]
        return [pathlib.Path(path) for path in (paths if self.is_main else agreed)]

    def stopping(self, requested: bool) -> bool:
        """Returns whether this process (`requested`) or another one asks to stop early.

        Raises:
          ProcessError: another process failed or was lost.
        """
        if self.count == 1:
            return requested
        if requested and not self._stopping:
            self._set(f"{self._prefix}/signals/stop", "")
            self._stopping = True
        if time.monotonic() >= self._next_check:
            self._check()
        return self._stopping

    def __enter__(self) -> "ProcessGroup":
        if self.count > 1:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._ended.set()
        if error is not None and self.count > 1:
            text = " ".join(str(error).split()) or type(error).__name__
            with contextlib.suppress(ProcessError):
                self._set(f"{self._prefix}/signals/failed {self.index}", text)

    def _beat(self) -> None:
        """Sends heartbeats, even while this process compiles."""
        beat, ended = 0, False
        with contextlib.suppress(ProcessError):
            while not ended:
                self._set(f"{self._prefix}/alive/{self.index}", str(beat))
                beat, ended = beat + 1, self._ended.wait(BEAT_S)

    def _check(self) -> None:
        """Reads the messages of the others. Raises: ProcessError."""
        self._next_check = time.monotonic() + _CHECK_S
        for name, value in self._entries(f"{self._prefix}/signals/").items():
            if name.startswith("failed") and name != f"failed {self.index}":
                raise ProcessError(f"process {name.split()[1]} of {self.count} failed: {value}")
            self._stopping |= name == "stop"
        self._check_beats(self._entries(f"{self._prefix}/alive/"))

    def _check_beats(self, beats: Mapping[str, str]) -> None:
        now = time.monotonic()
        for name in map(str, range(self.count)):
            beat, limit = beats.get(name, ""), LOST_S if name in beats else _ABSENT_S
            if name not in self._last_beats or self._last_beats[name][0] != beat:
                self._last_beats[name] = (beat, now)
            elif now - self._last_beats[name][1] > limit:
                raise ProcessError(
                    f"process {name} of {self.count} is lost: no heartbeat for {limit:.0f} s; see "
                    "its output"
                )

    def _set(self, key: str, value: str) -> None:
        with _coordinator():
            self._client.key_value_set(key, value, allow_overwrite=True)

    def _entries(self, folder: str) -> dict[str, str]:
        with _coordinator():
            entries = self._client.key_value_dir_get(folder)
        return {key.removeprefix(folder): value for key, value in entries}


def join(configs: Sequence[config.ExperimentConfig]) -> ProcessGroup:
    """Joins the processes that train these configurations; call it before the backend starts.

    Raises:
      ConfigError: the configurations disagree on `population.distributed`, or JAX cannot identify
        the processes.
      ProcessError: process 0 does not answer.
    """
    values = {cfg.population.distributed for cfg in configs}
    if len(values) > 1:
        raise config.ConfigError(
            "processes: population.distributed is true for some jobs only; set it for all or none"
        )
    if not values.pop():
        return ProcessGroup()
    if not jax.distributed.is_initialized():
        _connect()
    state = distributed.global_state
    return ProcessGroup(state.process_id, state.num_processes, state.client)


def _connect() -> None:
    arguments = _from_environment()
    # Otherwise a process that dies ends the others before they can report it.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=int(LOST_S))
    except ValueError as error:  # no variables, and no cluster that JAX detects
        raise config.ConfigError(
            f"processes: population.distributed=true, but there is no cluster that JAX detects; "
            f"set {', '.join(VARIABLES)}, or population.distributed=false"
        ) from error
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise config.ConfigError(
                "processes: population.distributed=true, but JAX is running already; restart the "
                "process, or call jax.distributed.initialize before anything else"
            ) from error
        raise ProcessError(f"process 0 does not answer ({_one_line(error)})") from error
    if distributed.global_state.process_id == 0:
        _exit_last()


def _exit_last() -> None:
    """Keeps process 0, which serves the key-value store, alive until the others have ended.

    At exit it calls `get_live_nodes`, which returns once every live process has called it, and the
    others never do. The thread starts now: none can start at interpreter shutdown.
    """
    exiting = threading.Event()
    state = distributed.global_state
    client: Any = state.client

    def wait() -> None:
        exiting.wait()
        client.get_live_nodes(list(range(state.num_processes)))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()

    def end() -> None:
        exiting.set()
        waiting.join(_EXIT_S)

    atexit.register(end)


def _from_environment() -> dict[str, Any]:
    """Returns arguments of `jax.distributed.initialize`, which itself reads only the address."""
    variables = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(variables.values()):
        return {}
    if missing := [name for name, text in variables.items() if not text]:
        raise config.ConfigError(
            f"processes: {', '.join(missing)} not set, but others of {', '.join(VARIABLES)} are; "
            "set all of them, or none if JAX detects the cluster (SLURM, Open MPI, TPU)"
        )
    address, count, index = variables.values()
    _, _, port = address.rpartition(":")
    if not port.isdecimal() or not count.isdecimal() or not index.isdecimal():
        raise config.ConfigError(
            f"processes: {', '.join(f'{name}={text}' for name, text in variables.items())}; "
            "allowed: host:port and two numbers"
        )
    if int(index) >= int(count):
        raise config.ConfigError(
            f"processes: {VARIABLES[2]}={index} with {VARIABLES[1]}={count}; allowed: 0 to "
            f"{int(count) - 1}"
        )
    if int(index) == 0:
        _check_port(address, int(port))
    # This process uses all devices of the host; JAX would take one per SLURM task.
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


def _check_port(address: str, port: int) -> None:
    """Raises: ConfigError if the port is in use; gRPC would share it."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise config.ConfigError(
            f"processes: {VARIABLES[0]}={address}: cannot listen on port {port} "
            f"({error.strerror}); choose a free one"
        ) from error


@contextlib.contextmanager
def _coordinator() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise ProcessError(
            f"process 0, which passes on all messages, is lost ({_one_line(error)})"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
