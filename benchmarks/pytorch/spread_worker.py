"""PettingZoo's simple_spread in a worker process; starts fast, without torch and JAX.

Data are in shared memory; a pipe carries one byte per command and reply.
"""

import ctypes
import importlib
import importlib.util
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any, NamedTuple

import numpy as np

RESET, STEP, CLOSE, READY = b"r", b"s", b"c", b"d"
N_AGENTS, N_ACTIONS, OBS_SIZE = 3, 5, 18


class Memory(NamedTuple):
    """Shared buffers of B environments."""

    obs: Any
    reward: Any
    truncated: Any
    actions: Any


class SharedArrays(NamedTuple):
    """`Memory` as arrays: obs f32[B, N, O], reward f32[B], truncated bool[B], actions i64[B, N]."""

    obs: np.ndarray
    reward: np.ndarray
    truncated: np.ndarray
    actions: np.ndarray


class Share(NamedTuple):
    """A worker's environments: columns `first` to `last` (excluded)."""

    first: int
    last: int
    seed: int
    max_cycles: int


def allocate(context: SpawnContext, n_envs: int) -> Memory:
    """Allocates buffers to share with workers of `context`."""
    return Memory(
        obs=context.RawArray(ctypes.c_float, n_envs * N_AGENTS * OBS_SIZE),
        reward=context.RawArray(ctypes.c_float, n_envs),
        truncated=context.RawArray(ctypes.c_bool, n_envs),
        actions=context.RawArray(ctypes.c_int64, n_envs * N_AGENTS),
    )


def arrays(memory: Memory) -> SharedArrays:
    """Returns the buffers as arrays, without a copy."""
    return SharedArrays(
        obs=np.frombuffer(memory.obs, np.float32).reshape(-1, N_AGENTS, OBS_SIZE),
        reward=np.frombuffer(memory.reward, np.float32),
        truncated=np.frombuffer(memory.truncated, np.bool_),
        actions=np.frombuffer(memory.actions, np.int64).reshape(-1, N_AGENTS),
    )


def library() -> str | None:
    """Returns the installed module with simple_spread: of PettingZoo, or mpe2, its successor."""
    for name in ("pettingzoo.mpe", "mpe2"):
        try:
            spec = importlib.util.find_spec(f"{name}.simple_spread_v3")
        except ImportError:  # raised by `pettingzoo.mpe` of newer versions
            continue
        if spec:
            return name
    return None


def work(connection: Connection, memory: Memory, share: Share) -> None:
    """Serves commands until `CLOSE`, or until the other end of the pipe is closed."""
    shared = arrays(memory)
    columns = range(share.first, share.last)
    envs = [make_env(share, column) for column in columns]
    connection.send_bytes(READY)
    while (command := _next_command(connection)) != CLOSE:
        serve = _reset if command == RESET else _step
        for column, env in zip(columns, envs, strict=True):
            serve(env, shared, column)
        connection.send_bytes(READY)


def _next_command(connection: Connection) -> bytes:
    try:
        return connection.recv_bytes()
    except EOFError:
        return CLOSE


def make_env(share: Share, column: int) -> Any:
    module = importlib.import_module(f"{library()}.simple_spread_v3")
    env = module.parallel_env(N=N_AGENTS, max_cycles=share.max_cycles, continuous_actions=False)
    env.reset(seed=int(np.random.SeedSequence((share.seed, column)).generate_state(1)[0]))
    return env


def _reset(env: Any, shared: SharedArrays, column: int) -> None:
    obs, _ = env.reset()
    shared.obs[column] = [obs[agent] for agent in env.possible_agents]
    shared.reward[column] = 0.0
    shared.truncated[column] = False


def _step(env: Any, shared: SharedArrays, column: int) -> None:
    """The team reward is the sum over agents; episodes end only at the time limit."""
    if shared.truncated[column]:
        return
    agents = env.possible_agents
    actions = dict(zip(agents, shared.actions[column].tolist(), strict=True))
    obs, reward, _, truncated, _ = env.step(actions)
    shared.obs[column] = [obs[agent] for agent in agents]
    shared.reward[column] = sum(reward[agent] for agent in agents)
    shared.truncated[column] = truncated[agents[0]]
