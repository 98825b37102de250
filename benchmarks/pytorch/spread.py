"""PettingZoo's simple_spread (three agents, discrete actions), stepped by worker processes.

State: all observations concatenated. All actions are always available; episodes end only at the
time limit.
"""

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from benchmarks.pytorch import records, spread_worker


def make(n_envs: int, n_workers: int, seed: int, max_cycles: int) -> records.Environments:
    """Starts the workers and waits for them.

    Args:
      n_envs: B.  n_workers: processes, a divisor of `n_envs`.
      seed: of the initial states; every environment has its own stream.
      max_cycles: steps per episode.
    Raises:
      ModuleNotFoundError: neither PettingZoo nor mpe2 is installed.
    """
    if spread_worker.library() is None:
        raise ModuleNotFoundError(
            "simple_spread needs pettingzoo[mpe]==1.24.3 or mpe2; install the torch extra"
        )
    # Not forked: torch and JAX run threads.
    context = multiprocessing.get_context("spawn")
    memory = spread_worker.allocate(context, n_envs)
    pipes: list[Connection] = []
    processes: list[BaseProcess] = []
    size = n_envs // n_workers
    for first in range(0, n_envs, size):
        pipe, worker_pipe = context.Pipe()
        share = spread_worker.Share(first, first + size, seed, max_cycles)
        process = context.Process(
            target=spread_worker.work, args=(worker_pipe, memory, share), daemon=True
        )
        process.start()
        worker_pipe.close()
        pipes.append(pipe)
        processes.append(process)
    _wait(pipes)
    return _environments(memory, pipes, processes, max_cycles)


def _environments(
    memory: spread_worker.Memory,
    pipes: list[Connection],
    processes: list[BaseProcess],
    max_cycles: int,
) -> records.Environments:
    arrays = spread_worker.arrays(memory)
    obs, joint_actions = torch.from_numpy(arrays.obs), torch.from_numpy(arrays.actions)
    n_envs, n_agents, obs_size = obs.shape
    timestep = records.TimeStep(
        obs=obs,
        state=obs.view(n_envs, -1),
        avail_actions=torch.ones(n_envs, n_agents, spread_worker.N_ACTIONS, dtype=torch.bool),
        reward=torch.from_numpy(arrays.reward),
        terminated=torch.zeros(n_envs, dtype=torch.bool),
        truncated=torch.from_numpy(arrays.truncated),
        metrics={},
    )

    def command(name: bytes) -> records.TimeStep:
        for pipe in pipes:
            pipe.send_bytes(name)
        _wait(pipes)
        return timestep

    def step(actions: torch.Tensor) -> records.TimeStep:
        joint_actions.copy_(actions)
        return command(spread_worker.STEP)

    def close() -> None:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join()

    return records.Environments(
        spec=records.Spec(
            n_agents=n_agents,
            n_actions=spread_worker.N_ACTIONS,
            obs_size=obs_size,
            state_size=n_agents * obs_size,
            max_steps=max_cycles,
        ),
        n_envs=n_envs,
        reset=lambda: command(spread_worker.RESET),
        step=step,
        close=close,
    )


def _wait(pipes: list[Connection]) -> None:
    for pipe in pipes:
        try:
            pipe.recv_bytes()
        except EOFError as error:
            raise RuntimeError("spread: a worker process ended; see its error above") from error
