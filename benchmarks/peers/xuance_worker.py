"""Runs QMIX of the XuanCe package on its MPE environments, through `get_runner`.

Times the agent's training call; wraps its parameter update only to count.
"""

import argparse
import importlib.metadata
import time

import worker_io

INSTALL = '"xuance==1.4.4" "torch==2.13.0" "pettingzoo[mpe]==1.24.3"'
HORIZON = 25


class Meter:
    """Wraps the agent's `train_epochs` to report progress and the env steps before it."""

    def __init__(self, agent, per_rollout, channel):
        self.learning_free = None
        self._agent, self._per_rollout, self._channel = agent, per_rollout, channel
        self._reported_steps = 0
        self._inner = agent.train_epochs
        agent.train_epochs = self

    def __call__(self, *args, **kwargs):
        env_steps = int(self._agent.current_step)
        if self.learning_free is None:
            # Recurrent agents count their rollout before they learn, others after.
            self.learning_free = env_steps - (self._per_rollout if self._agent.use_rnn else 0)
        if env_steps - self._reported_steps >= 10_000:
            self._reported_steps = env_steps
            self._channel.progress(f"xuance: {env_steps} env steps")
            steps = self._agent.learner.iterations
            self._channel.update(env_steps=env_steps, gradient_steps=steps)
        return self._inner(*args, **kwargs)


def execute(task, channel):
    """Trains and reports; see `worker_io.main`."""
    work = task["work"]
    options, notes = settings(work)
    torch = worker_io.need("torch", INSTALL)
    for package in ("xuance", "pettingzoo", "pygame"):
        worker_io.need(package, INSTALL)
    from xuance import get_runner

    runner = get_runner(
        algo="qmix",
        env="mpe",
        env_id="simple_spread_v3",
        parser_args=argparse.Namespace(**options),
    )
    threads = {"torch_threads": torch.get_num_threads()}
    channel.update(
        version=f"xuance {importlib.metadata.version('xuance')}, torch {torch.__version__}",
        settings={**vars(runner.config), **worker_io.platform(), **threads},
        notes=[*notes, *worker_io.environ_notes(task["environ"])],
    )
    meter = Meter(runner.agent, runner.n_envs * HORIZON, channel)
    channel.progress("xuance: training")
    start, cpu = time.perf_counter(), time.process_time()
    curve = []
    for target in _stops(work):
        runner.agent.train(max(1, (target - runner.agent.current_step) // runner.n_envs))
        if work["evaluate"]:
            curve.append(_test(runner.agent, work["eval_episodes"], start))
            channel.update(curve=curve)
    seconds = time.perf_counter() - start
    env_steps = int(runner.agent.current_step)
    channel.update(
        env_steps=env_steps,
        gradient_steps=runner.agent.learner.iterations,
        learning_free_env_steps=env_steps if meter.learning_free is None else meter.learning_free,
        run_seconds=seconds,
        cpu_seconds=time.process_time() - cpu,
        env_steps_per_s=env_steps / seconds,
    )
    channel.progress(f"xuance: trained in {seconds:.1f} s")


def _stops(work):
    """Returns the env steps at which training stops to evaluate or to end."""
    every = work["eval_every"] if work["evaluate"] else work["env_steps"]
    return [*range(every, work["env_steps"], every), work["env_steps"]]


def _test(agent, episodes, start):
    """Returns a point of the curve: greedy episodes in the training environments, which are reset.

    XuanCe's score of an episode is the mean over agents; ours is the sum.
    """
    scores = agent.test(episodes, close_envs=False)[:episodes]
    return {
        "env_steps": int(agent.current_step),
        "wall_seconds": time.perf_counter() - start,
        "returns": [len(agent.agent_keys) * sum(scores) / len(scores)],
        "win_rates": None,
    }


def settings(work):
    """Returns its arguments for this work, and notes on differences."""
    if work["environment"] != "mpe_spread":
        raise worker_io.RefusalError("supports environment mpe_spread only")
    if work["seeds"] != 1:
        raise worker_io.RefusalError("trains one seed per run; set seeds=1 and repeat the run")
    options = {
        "running_steps": work["env_steps"],
        "seed": work["seed"],
        "env_seed": work["seed"],
        "render": False,
        "log_dir": "logs",
        "model_dir": "models",
    }
    if not work["shipped"]:
        options.update(_equal(work))
    return options, _notes(work)


def _equal(work):
    """Returns the work as its arguments."""
    if work["reward_scale"] != 1:
        raise worker_io.RefusalError("has no reward scale; set reward_scale=1")
    if work["capacity"] % work["n_envs"] != 0:
        nearest = work["capacity"] // work["n_envs"] * work["n_envs"]
        raise worker_io.RefusalError(
            f"capacity must be a multiple of n_envs; use capacity={nearest}"
        )
    recurrent = work["agent"] == "gru"
    # Recurrent agents store and sample episodes, others single transitions.
    per_sequence = 1 if recurrent else HORIZON
    return {
        "parallels": work["n_envs"],
        "use_rnn": recurrent,
        "representation": "Basic_RNN" if recurrent else "Basic_MLP",
        "fc_hidden_sizes": [work["hidden"]],
        "recurrent_hidden_size": work["hidden"],
        "representation_hidden_size": [work["hidden"]],
        "q_hidden_size": [] if recurrent else [work["hidden"]],
        "use_parameter_sharing": True,
        "hidden_dim_mixing_net": work["mixer_embed"],
        "hidden_dim_hyper_net": work["hypernet_embed"],
        "buffer_size": work["capacity"] * per_sequence,
        "batch_size": work["batch_size"] * per_sequence,
        "learning_rate": work["learning_rate"],
        "end_factor_lr_decay": 1.0,
        "use_grad_clip": True,
        "grad_clip_norm": work["max_grad_norm"],
        "gamma": work["gamma"],
        "start_greedy": 1.0,
        "end_greedy": work["epsilon_end"],
        # XuanCe divides this by the number of environments, but counts the steps of all.
        "decay_step_greedy": work["epsilon_steps"] * work["n_envs"],
        "start_training": work["warm_up"],
        "training_frequency": work["n_envs"] * HORIZON,
        "n_epochs": work["gradient_steps"],
        "sync_frequency": work["target_period"],
    }


def _notes(work):
    """Returns differences from other trainers with equal settings."""
    notes = [
        "Adam, mean squared one-step double-Q error, PyTorch on the CPU",
        "environments are stepped in sequence in the training process",
        "the network's inputs include the agent id but not the last action",
        "the team reward is the mean over agents, not the sum",
        "at each step either all environments explore or none",
        "PettingZoo's simple_spread with 25 steps, not 26: initial states and physics details"
        " differ, so returns are not comparable",
        "writes TensorBoard files during the timed training",
    ]
    if work["shipped"]:
        notes[2] = "a separate network without a GRU for every agent"
        notes.append("default configuration except environment, seed and env_steps")
    elif work["agent"] == "mlp":
        notes.append("minibatches of batch_size x 25 single transitions")
    return notes


if __name__ == "__main__":
    worker_io.main(execute)
