"""Runs QMIX of an EPyMARL checkout: `src/run.py` with the parallel runner.

Merges the configuration files as its `main.py` does, without the experiment manager. Subclasses of
its runner and learner only count and time.
"""

import importlib.util
import logging
import os
import pathlib
import random
import sys
import time
import types

import worker_io

INSTALL = '"torch==2.13.0" "pettingzoo[mpe]==1.24.3" gymnasium pyyaml cloudpickle einops'
NEVER = 10**12


class Meter:
    """Counts steps, times the training loop, and records logged evaluations."""

    def __init__(self, channel):
        self.info = {}
        self.env_steps = 0
        self.gradient_steps = 0
        self.learning_free = 0
        self.start = self.end = None
        self.cpu_start = self.cpu_end = 0.0
        self.test_seconds = 0.0
        self.curve = []
        self._channel = channel
        self._reported_steps = 0

    def log_scalar(self, key, value, env_steps):
        """Called by EPyMARL's logger in place of a run of the experiment manager."""
        if key != "test_return_mean":
            return
        self.curve.append(
            {
                "env_steps": int(env_steps),
                "wall_seconds": time.perf_counter() - self.start,
                "returns": [worker_io.finite(value)],
                "win_rates": None,
            }
        )
        self._channel.update(curve=self.curve, env_steps=int(env_steps))

    def rollout(self, seconds, test, env_steps):
        if test:
            self.test_seconds += seconds
        elif self.gradient_steps == 0:
            self.learning_free = self.env_steps
        self.env_steps = env_steps
        if env_steps - self._reported_steps >= 10_000:
            self._reported_steps = env_steps
            self._channel.progress(f"epymarl: {env_steps} env steps")
            self._channel.update(env_steps=env_steps, gradient_steps=self.gradient_steps)


def execute(task, channel):
    """Trains and reports; see `worker_io.main`."""
    work = task["work"]
    config, notes = settings(work, task["checkout"])
    run, torch = _load(task["checkout"])
    version = f"EPyMARL, {worker_io.commit(task['checkout'])}, torch {torch.__version__}"
    channel.update(
        version=version,
        settings={**config, **worker_io.platform(), "torch_threads": 1},
        notes=[*notes, *worker_io.environ_notes(task["environ"])],
    )
    meter = Meter(channel)
    _measure(run, meter)
    _seed(torch, work["seed"])
    # As in its main.py; each environment runs in a separate process.
    torch.set_num_threads(1)
    channel.progress("epymarl: training")
    run.run(meter, config, logging.getLogger("epymarl"))
    _report(channel, meter, tested=config["test_interval"] != NEVER)


def settings(work, checkout):
    """Returns the merged configuration for this work, and notes on differences."""
    if work["environment"] != "mpe_spread":
        raise worker_io.RefusalError("supports environment mpe_spread only")
    if work["seeds"] != 1:
        raise worker_io.RefusalError("trains one seed per run; set seeds=1 and repeat the run")
    yaml = worker_io.need("yaml", INSTALL)
    folder = pathlib.Path(checkout) / "src" / "config"
    config = {}
    for name in ("default.yaml", "envs/gymma.yaml", "algs/qmix.yaml"):
        config.update(yaml.safe_load((folder / name).read_text()))
    horizon = 25 if work["shipped"] else work["rollout_steps"]
    arguments = {"key": "pz-mpe-simple-spread-v3", "time_limit": horizon, "seed": work["seed"]}
    config["env_args"] = {**config["env_args"], **arguments}
    config.update(seed=work["seed"], use_cuda=False, save_model=False, t_max=work["env_steps"] - 1)
    if not work["shipped"]:
        # EPyMARL's time limit ends the episode; PettingZoo's would drop the last reward.
        config["env_args"]["max_cycles"] = horizon + 1
        config.update(_equal(work))
    return config, _notes(work, config)


def _equal(work):
    """Returns the work as keys of its configuration."""
    if work["gradient_steps"] != 1:
        raise worker_io.RefusalError("makes one gradient step per rollout; set gradient_steps=1")
    if work["reward_scale"] != 1:
        raise worker_io.RefusalError("has no reward scale; set reward_scale=1")
    return {
        "runner": "parallel",
        "batch_size_run": work["n_envs"],
        "batch_size": work["batch_size"],
        "buffer_size": work["capacity"],
        "use_rnn": work["agent"] == "gru",
        "hidden_dim": work["hidden"],
        "mixing_embed_dim": work["mixer_embed"],
        "hypernet_layers": 2,
        "hypernet_embed": work["hypernet_embed"],
        "lr": work["learning_rate"],
        "grad_norm_clip": work["max_grad_norm"],
        "gamma": work["gamma"],
        "target_update_interval_or_tau": work["target_period"],
        "epsilon_anneal_time": work["epsilon_steps"],
        "epsilon_finish": work["epsilon_end"],
        "standardise_rewards": False,
        "test_interval": work["eval_every"] if work["evaluate"] else NEVER,
        "test_nepisode": work["eval_episodes"] if work["evaluate"] else work["n_envs"],
    }


def _notes(work, config):
    """Returns differences from other trainers with equal settings."""
    notes = [
        "Adam, mean squared one-step double-Q error, PyTorch on the CPU with one thread",
        f"{config['batch_size_run']} environments, each in a separate process"
        if config["runner"] == "parallel"
        else "one environment, in the training process",
        "the network's inputs include the agent id but not the last action",
        "no warm-up setting: learning starts when batch_size episodes are stored",
        f"PettingZoo's simple_spread with {config['env_args']['time_limit']} steps: initial states"
        " and physics details differ, so returns are not comparable",
        "time limits are treated as terminations",
    ]
    if config["test_interval"] == NEVER:
        notes.append("its only test, at the first rollout, is excluded from the timing")
    else:
        notes.append("the timing includes tests")
    if work["shipped"]:
        notes.append("its wrapper returns zero reward at the last step of an episode")
        notes.append("default configuration except environment, seed and env_steps")
    return notes


def _load(checkout):
    """Returns its `run` module and torch; replaces packages that only other environments need."""
    torch = worker_io.need("torch", INSTALL)
    for package in ("pettingzoo", "pygame", "gymnasium", "cloudpickle"):
        worker_io.need(package, INSTALL)
    # Imported by its environment registry, but unused here.
    if importlib.util.find_spec("smaclite") is None:
        sys.modules["smaclite"] = types.ModuleType("smaclite")
    sys.path.insert(0, os.path.join(checkout, "src"))
    return importlib.import_module("run"), torch


def _measure(run, meter):
    """Registers counting subclasses of its runners and learner."""
    for name, parent in list(run.r_REGISTRY.items()):
        run.r_REGISTRY[name] = _timed_runner(parent, meter)
    learner = run.le_REGISTRY["q_learner"]
    run.le_REGISTRY["q_learner"] = _counted_learner(learner, meter)


def _timed_runner(parent, meter):
    class Timed(parent):
        def run(self, test_mode=False):
            start = time.perf_counter()
            if meter.start is None:
                meter.start, meter.cpu_start = start, time.process_time()
            batch = super().run(test_mode=test_mode)
            meter.rollout(time.perf_counter() - start, test_mode, self.t_env)
            return batch

        def close_env(self):
            meter.end, meter.cpu_end = time.perf_counter(), time.process_time()
            super().close_env()

    return Timed


def _counted_learner(parent, meter):
    class Counted(parent):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            meter.gradient_steps += 1

    return Counted


def _seed(torch, seed):
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)  # noqa: NPY002 (its code uses this generator)
    torch.manual_seed(seed)


def _report(channel, meter, tested):
    seconds = meter.end - meter.start - (0.0 if tested else meter.test_seconds)
    channel.update(
        env_steps=meter.env_steps,
        gradient_steps=meter.gradient_steps,
        learning_free_env_steps=meter.learning_free,
        run_seconds=seconds,
        cpu_seconds=meter.cpu_end - meter.cpu_start,
        env_steps_per_s=meter.env_steps / seconds,
        curve=meter.curve if tested else [],
    )
    channel.progress(f"epymarl: trained in {seconds:.1f} s")


if __name__ == "__main__":
    worker_io.main(execute)
