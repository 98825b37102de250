"""Runs the recurrent QMIX script (`baselines/QLearning/qmix_rnn.py`) of a JaxMARL checkout.

Jits `make_train` over seeds as the script does, but compiles ahead of time and times compilation
separately. A replacement of the `wandb` module timestamps the evaluations that the script logs.
"""

import copy
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import threading
import time
import types

import worker_io

INSTALL = "jaxmarl==0.2.0 jax==0.10.2 flashbax safetensors omegaconf hydra-core six"
CONFIGS = {"smax": "ql_rnn_smax", "mpe": "ql_rnn_mpe"}
LONGEST_EPISODE = {"smax": 101, "mpe": 26}


class TestLog(types.ModuleType):
    """Replaces `wandb`: records greedy evaluations and the time at which each seed logged."""

    def __init__(self):
        super().__init__("wandb")
        self.on_point = None
        self.interval = 0
        self.seeds = ()
        self.start = 0.0
        self._rows = {}
        self._lock = threading.Lock()

    def log(self, metrics):
        """Called by the training program on the host, once per rollout and seed."""
        update = int(metrics["update_steps"])
        # The first update logs the evaluation before training.
        if update != 1 and update % self.interval != 0:
            return
        seconds = time.perf_counter() - self.start
        seed = next(int(k[3:].split("/")[0]) for k in metrics if k.startswith("rng"))
        with self._lock:
            row = self._rows.setdefault(update, {})
            row[seed] = (seconds, metrics)
            if len(row) == len(self.seeds) and self.on_point is not None:
                self.on_point(self.curve())

    def curve(self):
        """Returns the points that all seeds have logged, in order."""
        return [
            self._point(update, row)
            for update, row in sorted(self._rows.items())
            if len(row) == len(self.seeds)
        ]

    def _point(self, update, row):
        ordered = [row[seed] for seed in self.seeds]
        first = ordered[0][1]
        before = update == 1 and self.interval != 1
        return {
            "env_steps": 0 if before else int(first["env_step"]),
            "wall_seconds": max(seconds for seconds, _ in ordered),
            "returns": _column(ordered, "test_returned_episode_returns"),
            "win_rates": _column(ordered, "test_returned_won_episode")
            if "test_returned_won_episode" in first
            else None,
        }


def execute(task, channel):
    """Compiles, trains, and reports; see `worker_io.main`."""
    work = task["work"]
    log = TestLog()
    script = _load(task["checkout"], log)
    config, notes = settings(work, task["checkout"])
    version = importlib.metadata.version("jaxmarl")
    channel.update(
        version=f"jaxmarl {version}, {worker_io.commit(task['checkout'])}",
        settings={**config, **_platform()},
        notes=[*notes, *worker_io.environ_notes(task["environ"])],
    )
    channel.progress("jaxmarl: compiling")
    program, keys, seconds = _compile(script, config)
    channel.update(compile_seconds=seconds)
    channel.progress(f"jaxmarl: compiled in {seconds:.1f} s; training")
    log.interval = max(1, int(config["NUM_UPDATES"] * config["TEST_INTERVAL"]))
    log.seeds = tuple(int(key[0]) for key in keys)
    log.on_point = lambda curve: channel.update(curve=curve, env_steps=curve[-1]["env_steps"])
    state, timing = _train(program, keys, log)
    channel.update(**timing, **_measured(state, config, timing["run_seconds"]), curve=log.curve())
    channel.progress(f"jaxmarl: trained in {timing['run_seconds']:.1f} s")


def settings(work, checkout):
    """Returns the script's configuration for this work, and notes on differences."""
    if work["agent"] != "gru" and not work["shipped"]:
        raise worker_io.RefusalError("supports GRU agents only; set agent=gru")
    suite, _, scenario = work["environment"].partition("_")
    config = _shipped(checkout, CONFIGS[suite])
    config.update(
        TOTAL_TIMESTEPS=work["env_steps"],
        SEED=work["seed"],
        NUM_SEEDS=work["seeds"],
        SAVE_PATH=None,
        WANDB_LOG_ALL_SEEDS=True,
    )
    if suite == "smax":
        config["MAP_NAME"] = scenario
    if not work["shipped"]:
        config.update(_equal(work, suite))
    per_update = config["NUM_ENVS"] * config["NUM_STEPS"]
    config["NUM_UPDATES"] = config["TOTAL_TIMESTEPS"] // config["NUM_STEPS"] // config["NUM_ENVS"]
    if config["NUM_UPDATES"] < 1:
        raise worker_io.RefusalError(
            f"env_steps={work['env_steps']} is less than a rollout; use at least {per_update}"
        )
    config["WANDB_MODE"] = "recorded" if config["TEST_DURING_TRAINING"] else "disabled"
    if config["TEST_DURING_TRAINING"] and int(config["NUM_UPDATES"] * config["TEST_INTERVAL"]) < 1:
        raise worker_io.RefusalError(
            "evaluations are less than a rollout apart; raise env_steps or eval_every"
        )
    return config, _notes(work, config, suite)


def _equal(work, suite):
    """Returns the work as keys of the script's configuration."""
    per_update = work["n_envs"] * work["rollout_steps"]
    updates = max(1, work["env_steps"] // work["rollout_steps"] // work["n_envs"])
    every = max(1, work["eval_every"] // per_update)
    return {
        "NUM_ENVS": work["n_envs"],
        "NUM_STEPS": work["rollout_steps"],
        "BUFFER_SIZE": work["capacity"],
        "BUFFER_BATCH_SIZE": work["batch_size"],
        "HIDDEN_SIZE": work["hidden"],
        "MIXER_EMBEDDING_DIM": work["mixer_embed"],
        "MIXER_HYPERNET_HIDDEN_DIM": work["hypernet_embed"],
        "EPS_FINISH": work["epsilon_end"],
        "EPS_DECAY": work["epsilon_steps"] / (updates * per_update),
        "MAX_GRAD_NORM": work["max_grad_norm"],
        "TARGET_UPDATE_INTERVAL": max(1, round(work["target_period"] / work["gradient_steps"])),
        "NUM_EPOCHS": work["gradient_steps"],
        "LR": work["learning_rate"],
        "LR_LINEAR_DECAY": False,
        "LEARNING_STARTS": work["warm_up"],
        "GAMMA": work["gamma"],
        "REW_SCALE": work["reward_scale"],
        "TEST_DURING_TRAINING": work["evaluate"],
        # Half a rollout more, because the script rounds the product down.
        "TEST_INTERVAL": (every + 0.5) / updates,
        "TEST_NUM_STEPS": LONGEST_EPISODE[suite],
        "TEST_NUM_ENVS": work["eval_episodes"],
    }


def _notes(work, config, suite):
    """Returns differences from other trainers with equal settings."""
    period = config["TARGET_UPDATE_INTERVAL"] * config["NUM_EPOCHS"]
    notes = [
        "rectified Adam, mean squared one-step double-Q error, orthogonal initialisation",
        "the network's inputs include the agent id but not the last action",
        "no gradient step until the warm-up and batch_size rollouts are collected",
        f"target networks are updated every {period} gradient steps"
        f" ({config['TARGET_UPDATE_INTERVAL']} rollouts, including those before learning)",
        "environments are reset before every rollout; seeds are vmapped in one program",
    ]
    if suite == "smax":
        notes += [
            "targets use the done flag of the previous step: they bootstrap across episode ends and"
            " cut the first step of each episode",
            "an agent's death resets its carry; an agent dead at the end of an episode observes"
            " zeros at the first step of the next",
            "the world state is not normalised",
        ]
    else:
        notes.append("the 26th step, the time limit, ends each rollout and never has a target")
    if config["TEST_DURING_TRAINING"]:
        notes.append(
            f"the timed program includes tests: {config['TEST_NUM_ENVS']} environments x"
            f" {config['TEST_NUM_STEPS']} steps, counting every episode that ends within them;"
            " one host callback per rollout and seed"
        )
    if work["shipped"]:
        notes.append("default configuration except environment, seeds and env_steps")
    return notes


def _load(checkout, log):
    """Returns the script as a module that logs to `log`."""
    for package in ("jax", "jaxmarl", "flashbax", "safetensors", "omegaconf", "hydra", "optax"):
        worker_io.need(package, INSTALL)
    sys.modules["wandb"] = log
    path = pathlib.Path(checkout) / "baselines" / "QLearning" / "qmix_rnn.py"
    spec = importlib.util.spec_from_file_location("qmix_rnn", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shipped(checkout, name):
    from omegaconf import OmegaConf

    folder = pathlib.Path(checkout) / "baselines" / "QLearning" / "config"
    main, alg = (OmegaConf.load(folder / n) for n in ("config.yaml", f"alg/{name}.yaml"))
    return {**OmegaConf.to_container(main), **OmegaConf.to_container(alg)}


def _compile(script, config):
    import jax

    env, _ = script.env_from_config(copy.deepcopy(config))
    keys = jax.random.split(jax.random.PRNGKey(config["SEED"]), config["NUM_SEEDS"])
    start = time.perf_counter()
    program = jax.jit(jax.vmap(script.make_train(copy.deepcopy(config), env))).lower(keys).compile()
    return program, keys, time.perf_counter() - start


def _train(program, keys, log):
    import jax

    cpu = time.process_time()
    log.start = time.perf_counter()
    train_state = jax.block_until_ready(program(keys))["runner_state"][0]
    timing = {
        "run_seconds": time.perf_counter() - log.start,
        "cpu_seconds": time.process_time() - cpu,
    }
    jax.effects_barrier()
    return train_state, timing


def _measured(train_state, config, seconds):
    """Returns the counters of the final state, which are equal for all seeds."""
    env_steps, gradient_steps, updates = (
        int(counter[0])
        for counter in (train_state.timesteps, train_state.grad_steps, train_state.n_updates)
    )
    idle = updates - gradient_steps // config["NUM_EPOCHS"]
    return {
        "env_steps": env_steps,
        "gradient_steps": gradient_steps,
        "learning_free_env_steps": idle * config["NUM_ENVS"] * config["NUM_STEPS"],
        "env_steps_per_s": env_steps * config["NUM_SEEDS"] / seconds,
    }


def _platform():
    import jax

    return {
        **worker_io.platform(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "PJRT_NPROC": os.environ.get("PJRT_NPROC"),
    }


def _column(rows, key):
    return [worker_io.finite(metrics[key]) for _, metrics in rows]


if __name__ == "__main__":
    worker_io.main(execute)
