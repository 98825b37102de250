"""Runs the QMIX of the XuanCe package on its MPE environments, through its `get_runner`.

Its agent's training call is timed; its parameter update is wrapped only to count.
"""

import argparse
import importlib.metadata
import time

import worker_io

INSTALL = '"xuance==1.4.4" "torch==2.13.0" "pettingzoo[mpe]==1.24.3"'
HORIZON = 25


class Meter:
    """Stands around the agent's `train_epochs`: env steps before the first one, and progress."""

    def __init__(self, agent, per_rollout, channel):
        self.learning_free = None
        self._agent, self._per_rollout, self._channel = agent, per_rollout, channel
        self._shown = 0
        self._inner = agent.train_epochs
        agent.train_epochs = self

    def __call__(self, *args, **kwargs):
        done = self._agent.current_step
        if self.learning_free is None:
            # the recurrent agent counts its rollout before it learns, the other one after
            self.learning_free = done - (self._per_rollout if self._agent.use_rnn else 0)
        if done - self._shown >= 10_000:
            self._shown = done
            self._channel.progress(f"xuance: {done} env steps")
            steps = self._agent.learner.iterations
            self._channel.update(env_steps=int(done), gradient_steps=steps)
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
    """Env steps after which training pauses: for its tests, and at its end."""
    every = work["eval_every"] if work["evaluate"] else work["env_steps"]
    return [*range(every, work["env_steps"], every), work["env_steps"]]


def _test(agent, episodes, start):
    """A point of the curve: greedy episodes in its training environments, which it resets anyway.

    Its score of an episode is the mean over agents; ours is their sum.
    """
    scores = agent.test(episodes, close_envs=False)[:episodes]
    return {
        "env_steps": int(agent.current_step),
        "wall_seconds": time.perf_counter() - start,
        "returns": [len(agent.agent_keys) * sum(scores) / len(scores)],
        "win_rates": None,
    }


def settings(work):
    """Its arguments for this work, and what is not equal."""
    if work["environment"] != "mpe_spread":
        raise worker_io.RefusalError("of these environments it has mpe_spread only")
    if work["seeds"] != 1:
        raise worker_io.RefusalError(
            "trains one seed per run; set seeds=1 and run it once per seed"
        )
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
    """Work in the names of its arguments."""
    if work["reward_scale"] != 1:
        raise worker_io.RefusalError("has no reward scale; set reward_scale=1")
    if work["capacity"] % work["n_envs"] != 0:
        nearest = work["capacity"] // work["n_envs"] * work["n_envs"]
        raise worker_io.RefusalError(
            f"capacity must be a multiple of n_envs; set capacity={nearest}"
        )
    recurrent = work["agent"] == "gru"
    # the recurrent agent samples and stores whole episodes, the other one single transitions
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
        # it divides by the number of environments, and then counts the steps of all of them
        "decay_step_greedy": work["epsilon_steps"] * work["n_envs"],
        "start_training": work["warm_up"],
        "training_frequency": work["n_envs"] * HORIZON,
        "n_epochs": work["gradient_steps"],
        "sync_frequency": work["target_period"],
    }


def _notes(work):
    """What is not equal to other trainers at the same settings."""
    notes = [
        "Adam, mean squared one-step double-Q error, PyTorch on the CPU",
        "all environments in the training process, stepped one after another",
        "the network sees the agent's id but not its last action",
        "team reward is the mean over agents, not the sum",
        "one random number decides for all environments whether a step explores",
        "PettingZoo's simple_spread with 25 steps, not 26: other start states and physics details;"
        " not comparable in returns",
        "writes TensorBoard files during the timed training",
    ]
    if work["shipped"]:
        notes[2] = "an agent network of its own for every agent, without a GRU"
        notes.append("its shipped configuration; only environment, seed, env_steps were set")
    elif work["agent"] == "mlp":
        notes.append("batches of single transitions, batch_size x 25 of them")
    return notes


if __name__ == "__main__":
    worker_io.main(execute)
