"""Processes that share a run: who there is, what they tell each other, and who is lost.

They talk through the key-value store of `jax.distributed`, in a few short texts; no collective is
used, and no array travels.
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
from jax._src import distributed  # the key-value store has no public name

from qmix_jax import config

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""What tells a process who it is, where no cluster that JAX knows does."""

_calls = itertools.count()
_POLL_S = 0.1
_LOOK_S = 1.0
BEAT_S = 5.0
LOST_S = 60.0
"""Seconds without a sign of life after which a process counts as lost."""
_FAREWELL_S = 300.0
_ABSENT_S = 600.0
"""The same for a process that has not come to this call yet."""


class ProcessError(RuntimeError):
    """Another process has failed or is lost: there is no result."""


class ProcessGroup(contextlib.AbstractContextManager["ProcessGroup"]):
    """The processes that share one call of `train`: one where the run is not distributed.

    All of them ask the same questions in the same order. Inside the context a thread gives signs of
    life, and an error that ends the context is told to the others.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None) -> None:
        """This process is number `index` of `count`; `client` of their key-value store."""
        self.index = index
        self.count = count
        self._client = client
        self._prefix = f"qmix_jax/{next(_calls)}"
        self._ended = threading.Event()
        self._stopping = False
        self._next_look = 0.0
        self._heard: dict[str, tuple[str, float]] = {}

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes the results and talks to people."""
        return self.index == 0

    def share(self, n_members: int) -> range:
        """The members of this process; shares are contiguous and differ by at most one member."""
        each, more = divmod(n_members, self.count)
        begin = self.index * each + min(self.index, more)
        return range(begin, begin + each + (self.index < more))

    def gather(self, name: str, value: Any) -> list[Any]:
        """Everyone's value, in the order of the processes, once all have come here.

        Args:
          name: of this meeting; no two of a call are the same.
          value: what JSON has.
        Raises:
          ProcessError: another process failed or is lost.
        """
        if self.count == 1:
            return [value]
        folder = f"{self._prefix}/{name}/"
        self._set(f"{folder}{self.index}", json.dumps(value))
        while len(found := self._entries(folder)) < self.count:
            self._look()
            time.sleep(_POLL_S)
        return [json.loads(found[str(i)]) for i in range(self.count)]

    def paths(self, name: str, own: Sequence[str | os.PathLike[str]]) -> list[pathlib.Path]:
        """Process 0's paths for all: a default holds the time of day."""
        agreed = self.gather(name, [os.path.abspath(path) for path in own])[0]
        return [pathlib.Path(path) for path in (own if self.first else agreed)]

    def stopping(self, asked: bool) -> bool:
        """Whether this process (`asked`) or another one is to end early.

        Raises:
          ProcessError: another process failed or is lost.
        """
        if self.count == 1:
            return asked
        if asked and not self._stopping:
            self._set(f"{self._prefix}/signals/stop", "")
            self._stopping = True
        if time.monotonic() >= self._next_look:
            self._look()
        return self._stopping

    def __enter__(self) -> "ProcessGroup":
        if self.count > 1:
            threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._ended.set()
        if error is not None and self.count > 1:
            text = " ".join(str(error).split()) or type(error).__name__
            with contextlib.suppress(ProcessError):
                self._set(f"{self._prefix}/signals/failed {self.index}", text)

    def _live(self) -> None:
        """Gives a sign of life every few seconds, also while this process compiles."""
        beat, ended = 0, False
        with contextlib.suppress(ProcessError):
            while not ended:
                self._set(f"{self._prefix}/alive/{self.index}", str(beat))
                beat, ended = beat + 1, self._ended.wait(BEAT_S)

    def _look(self) -> None:
        """Reads what the others have signalled."""
        self._next_look = time.monotonic() + _LOOK_S
        for name, value in self._entries(f"{self._prefix}/signals/").items():
            if name.startswith("failed") and name != f"failed {self.index}":
                raise ProcessError(f"process {name.split()[1]} of {self.count} failed: {value}")
            self._stopping |= name == "stop"
        self._find_lost(self._entries(f"{self._prefix}/alive/"))

    def _find_lost(self, beats: Mapping[str, str]) -> None:
        now = time.monotonic()
        for name in map(str, range(self.count)):
            beat, patience = beats.get(name, ""), LOST_S if name in beats else _ABSENT_S
            if name not in self._heard or self._heard[name][0] != beat:
                self._heard[name] = (beat, now)
            elif now - self._heard[name][1] > patience:
                raise ProcessError(
                    f"process {name} of {self.count} is lost: no sign of life for {patience:.0f} "
                    "s; see its own output"
                )

    def _set(self, key: str, value: str) -> None:
        with _coordinator():
            self._client.key_value_set(key, value, allow_overwrite=True)

    def _entries(self, folder: str) -> dict[str, str]:
        with _coordinator():
            found = self._client.key_value_dir_get(folder)
        return {key.removeprefix(folder): value for key, value in found}


def join(configs: Sequence[config.ExperimentConfig]) -> ProcessGroup:
    """The processes that train these configurations together; call it before the backend starts.

    Raises:
      ConfigError: the configurations disagree on `population.distributed`, or JAX cannot tell who
        the processes are.
      ProcessError: process 0 does not answer.
    """
    wanted = {cfg.population.distributed for cfg in configs}
    if len(wanted) > 1:
        raise config.ConfigError(
            "processes: population.distributed is true for some jobs only; set it for all or none"
        )
    if not wanted.pop():
        return ProcessGroup()
    if not jax.distributed.is_initialized():
        _connect()
    state = distributed.global_state
    return ProcessGroup(state.process_id, state.num_processes, state.client)


def _connect() -> None:
    given = _from_environment()
    # A process that dies would take the others with it, without a word of ours.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=int(LOST_S))
    except ValueError as error:  # no variables, and no cluster that JAX knows
        raise config.ConfigError(
            f"processes: population.distributed=true, but there is no cluster here that JAX knows; "
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
        _leave_last()


def _leave_last() -> None:
    """Keeps process 0, which serves the key-value store, until the other processes have ended.

    At exit it asks which processes are alive; the answer comes once every live process has asked,
    and the others never ask. The thread starts now: no thread starts at interpreter shutdown.
    """
    leaving = threading.Event()
    state = distributed.global_state
    client: Any = state.client

    def wait() -> None:
        leaving.wait()
        client.get_live_nodes(list(range(state.num_processes)))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()

    def leave() -> None:
        leaving.set()
        waiting.join(_FAREWELL_S)

    atexit.register(leave)


def _from_environment() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`, which itself reads only the first variable."""
    found = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(found.values()):
        return {}
    if missing := [name for name, text in found.items() if not text]:
        raise config.ConfigError(
            f"processes: {', '.join(missing)} not set, but others of {', '.join(VARIABLES)} are; "
            "set all of them, or none where JAX knows the cluster (SLURM, Open MPI, TPU)"
        )
    address, count, index = found.values()
    _, _, port = address.rpartition(":")
    if not port.isdecimal() or not count.isdecimal() or not index.isdecimal():
        raise config.ConfigError(
            f"processes: {', '.join(f'{name}={text}' for name, text in found.items())}; allowed: "
            "host:port and two numbers"
        )
    if int(index) >= int(count):
        raise config.ConfigError(
            f"processes: {VARIABLES[2]}={index} with {VARIABLES[1]}={count}; allowed: 0 to "
            f"{int(count) - 1}"
        )
    if int(index) == 0:
        _check_port(address, int(port))
    # All devices of the host are this process's: JAX would take one per SLURM task.
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


def _check_port(address: str, port: int) -> None:
    """gRPC would share a port in use, and its answers with it."""
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
            f"process 0, through which all processes talk, is lost ({_one_line(error)})"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
