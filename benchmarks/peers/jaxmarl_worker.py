"""Runs JaxMARL's recurrent QMIX script (`baselines/QLearning/qmix_rnn.py`) of a checkout.

The script's own `make_train` is jitted over seeds as the script does it, but compiled ahead and
timed apart. Tests during training leave the compiled program through the script's own logging:
a stand-in for the `wandb` module puts a wall-clock time on each.
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
    """Stands in for `wandb`: keeps the greedy tests, with the time at which each seed logged."""

    def __init__(self):
        super().__init__("wandb")
        self.on_point = None
        self.interval = 0
        self.seeds = ()
        self.start = 0.0
        self._rows = {}
        self._lock = threading.Lock()

    def log(self, metrics):
        """Called on the host by the training program, once per rollout and seed."""
        update = int(metrics["update_steps"])
        # the first update carries the test made before training
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
        """Points at which every seed has logged, in the order of training."""
        whole = [(u, row) for u, row in sorted(self._rows.items()) if len(row) == len(self.seeds)]
        return [self._point(update, row) for update, row in whole]

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
    """The script's configuration for this work, and what is not equal."""
    if work["agent"] != "gru" and not work["shipped"]:
        raise worker_io.RefusalError("the script has a GRU agent only; set agent=gru")
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
            f"env_steps={work['env_steps']} is less than a rollout: {per_update}"
        )
    config["WANDB_MODE"] = "recorded" if config["TEST_DURING_TRAINING"] else "disabled"
    if config["TEST_DURING_TRAINING"] and int(config["NUM_UPDATES"] * config["TEST_INTERVAL"]) < 1:
        raise worker_io.RefusalError(
            "less than a rollout between tests; raise env_steps or eval_every"
        )
    return config, _notes(work, config, suite)


def _equal(work, suite):
    """Work in the names of the script's configuration."""
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
        # half a rollout more, because the script rounds the product down
        "TEST_INTERVAL": (every + 0.5) / updates,
        "TEST_NUM_STEPS": LONGEST_EPISODE[suite],
        "TEST_NUM_ENVS": work["eval_episodes"],
    }


def _notes(work, config, suite):
    """What is not equal to other trainers at the same settings."""
    period = config["TARGET_UPDATE_INTERVAL"] * config["NUM_EPOCHS"]
    notes = [
        "rectified Adam, mean squared one-step double-Q error, orthogonal initialisation",
        "the network sees the agent's id but not its last action",
        "no gradient step until warm-up and batch_size rollouts of all environments are collected",
        f"target networks copied every {period} gradient steps"
        f" ({config['TARGET_UPDATE_INTERVAL']} rollouts, those before learning counted)",
        "environments are reset at every rollout; seeds are vmapped in one program",
    ]
    if suite == "smax":
        notes += [
            "targets use the previous step's done flag: they bootstrap across episode ends and"
            " cut the first step of each episode",
            "the carry is reset by each agent's own death flag, and an agent that was dead at an"
            " episode's end sees zeros at the next one's first step",
            "unnormalised world state",
        ]
    else:
        notes.append("the 26th step, a time limit, is the last of each rollout: never a target")
    if config["TEST_DURING_TRAINING"]:
        notes.append(
            f"tests run inside the timed program: {config['TEST_NUM_ENVS']} environments x"
            f" {config['TEST_NUM_STEPS']} steps, every episode that ends within them counts;"
            " one host callback per rollout and seed"
        )
    if work["shipped"]:
        notes.append("its shipped configuration; only environment, seeds, env_steps were set")
    return notes


def _load(checkout, log):
    """The script as a module, with the stand-in for its logging."""
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
    """Counters of the returned state; they are the same for every seed."""
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
