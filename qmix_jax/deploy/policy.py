"""`load_policy`: a trained team's policy, from its run directory or from what was exported."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from qmix_jax import config, program
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base as algorithms
from qmix_jax.deploy import runner, trained
from qmix_jax.types import Array, Box, Observed, no_action

CARRY, PREVIOUS, RESET, KEY = "carry", "prev_actions", "reset", "key"
"""Names in a state; a carry of several arrays has names that begin so."""
FILES = ("policy.stablehlo", "weights.npz")
METADATA = "metadata.json"
FLATBUFFERS = "serialised programs need flatbuffers: pip install flatbuffers (or qmix-jax[export])"


def load_policy(
    path: str | os.PathLike[str],
    member: int | str = "best",
    parameters: trained.Kind = "best",
) -> runner.Policy:
    """A trained team's decentralised policy; neither training nor the environment is started.

        policy = qmix_jax.load_policy("runs/smax_3m/qmix/...")
        state = policy.initial_state()                      # at the start of every episode
        actions, state = policy.act(obs, avail_actions, state)

    `policy.agent("ally_0")` is one agent's own policy, which sees its own observations alone.

    Args:
      path: a run directory, or a folder or file that `export_run` wrote.
      member: which member of a run; `best` is the one with the best greedy evaluation.
      parameters: those of a run's best evaluation or of its end.
    Returns:
      A `Policy`: takes and gives NumPy arrays, and explores only if given an epsilon.
    Raises:
      ConfigError: none of these, a run that has not ended, no such member, or an algorithm that
        acts on more than a policy is given.
    """
    root = pathlib.Path(path)
    file = exported_file(root)
    if file is not None:
        return of_export(file)
    run = trained.read(root, parameters)
    return of_run(run, run.member(member))


def of_run(run: trained.TrainedRun, member: int) -> runner.Policy:
    """The policy of one member of a run."""
    step = jax.jit(make_step(run))
    params = jax.device_put(run.own(member))

    def compiled(obs: np.ndarray, avail: np.ndarray, state: runner.Arrays) -> Any:
        with precision(run.config):
            return step(params, obs, avail, dict(state))

    return runner.make(about(run, member), compiled)


def exported_file(path: pathlib.Path) -> pathlib.Path | None:
    """The exported policy at a path: the path itself, or what a folder holds; None where none is.

    Of both formats in one folder, StableHLO: it runs on accelerators too.
    """
    if path.is_file():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)


def of_export(file: pathlib.Path) -> runner.Policy:
    """The policy in an exported file. Raises: ConfigError for a file that holds none."""
    try:
        if file.suffix == ".npz":
            return runner.load(file)
        described = json.loads((file.parent / METADATA).read_text(encoding="utf-8"))
        runner.check_format(described, file)
        program = export.deserialize(bytearray(file.read_bytes()))
    except runner.FormatError as error:
        raise config.ConfigError(str(error)) from error
    except ImportError as error:
        raise config.ConfigError(f"policy: {file.name}: {error}; {FLATBUFFERS}") from error
    except Exception as error:  # whatever the parsers of foreign bytes raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise config.ConfigError(
            f"policy: cannot read {str(file)!r} ({reason}); give a run directory, or the folder or "
            f"a file ({', '.join(FILES)}) that `qmix-jax export` wrote"
        ) from error
    platform = export.default_export_platform()
    if platform not in program.platforms:
        raise config.ConfigError(
            f"policy: {str(file)!r} is for {', '.join(program.platforms)}, and this is "
            f"{platform}; export it with --platforms {platform}"
        )
    return runner.make(described, step_of(program))


def step_of(program: export.Exported) -> runner.Step:
    """The step of an exported program."""
    call = jax.jit(program.call)
    return lambda obs, avail, state: call(obs, avail, dict(state))


def make_step(run: trained.TrainedRun) -> Callable[..., tuple[Array, Any, dict[str, Array]]]:
    """`Algorithm.act` without exploration: `(params, obs f32[B, N, *O], avail_actions bool[B, N,
    A], state) -> (actions, head, state)`; a state is a dict of arrays, see `about`.

    `head` f32[B, N, A] is what the agent's network gives, for a Q-learner its utilities; None where
    the algorithm states no `Algorithm.head`.

    Raises: ConfigError for an algorithm that acts on more than a policy is given.
    """
    algorithm = acting(run)
    _, rebuild = _named_carry(algorithm)
    head_of, samples = make_head(run, algorithm), draws(algorithm)

    def step(
        params: Any, obs: Array, avail: Array, state: Mapping[str, Array]
    ) -> tuple[Array, Any, dict[str, Array]]:
        reset, previous = state[RESET], state[PREVIOUS]
        starts = jnp.expand_dims(reset, range(1, previous.ndim))
        seen = Observed(
            obs=obs,
            prev_actions=jnp.where(starts, no_action(previous), previous),
            reset=reset,
            avail_actions=avail,
        )
        following, key = next_key(state[KEY]) if samples else ({}, jax.random.key(0))
        carry = rebuild(state)
        after, actions, _ = algorithm.act(params, carry, seen, algorithm.greedy, key)
        state = {**_names(after), PREVIOUS: actions, RESET: jnp.zeros_like(reset), **following}
        return actions, head_of and head_of(params, carry, seen), state

    return step


def acting(run: trained.TrainedRun) -> algorithms.Algorithm:
    """A run's algorithm. Raises: ConfigError if it acts on more than a policy is given."""
    algorithm = run.algorithm()
    if algorithm.needs.mean_action:
        raise config.ConfigError(
            f"policy: {run.config.algo.name} acts on the mean action of each agent's neighbours, "
            "which a policy is not given; `qmix-jax evaluate` plays it"
        )
    return algorithm


def draws(algorithm: algorithms.Algorithm) -> bool:
    """Whether its actions are drawn at random even without exploration, as far as it says."""
    return algorithm.head not in ("argmax", "tanh")


def next_key(data: Array) -> tuple[dict[str, Array], Array]:
    """(what a state holds after a step, the key to act with in this step).

    Args:
      data: u32[2], what it holds before.
    """
    following, key = jax.random.split(jax.random.wrap_key_data(data, impl="threefry2x32"))
    return {KEY: jax.random.key_data(following)}, key


def make_head(
    run: trained.TrainedRun, algorithm: algorithms.Algorithm
) -> Callable[[Any, Any, Observed], Array] | None:
    """`(params, carry, Observed[B]) -> f32[B, N, A]`, the head that the algorithm says it acts by;
    None where it names none, or its parameters and carry are not those of such an agent.
    """
    if algorithm.head is None:
        return None
    agent = program.make_agent(run.config, run.spec, run.spec.actions.width)
    stated = jax.eval_shape(lambda: (agent.init(jax.random.key(0)), agent.initial_carry(1)))
    used = run.own(0).get("agent"), jax.eval_shape(lambda: algorithm.initial_carry(1)["act"])
    if _shapes(used) != _shapes(stated):
        return None
    return lambda params, carry, seen: agents.step(agent, params["agent"], carry, seen)[1]


def _shapes(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]


def about(run: trained.TrainedRun, member: int) -> dict[str, Any]:
    """What is written down of a policy: its interface, and where it comes from; plain values."""
    spec, manifest, algorithm = run.spec, run.manifest, acting(run)
    actions, bounds = spec.actions, {}
    if isinstance(actions, Box):
        bounds = {"low": actions.low, "high": actions.high}
    shapes, _ = _named_carry(algorithm)
    return {
        "format": runner.FORMAT,
        "interface": {
            "env": spec.name,
            "agent_names": list(spec.agent_names),
            "actions": {
                "kind": "box" if bounds else "discrete",
                "sizes": list(actions.sizes),
                **bounds,
            },
            "obs_shapes": [list(shape) for shape in spec.obs_shapes],
            "obs_shape": list(spec.obs_shape),
            "head": make_head(run, algorithm) and algorithm.head,
            "state": {
                **{name: [list(x.shape[1:]), x.dtype.name] for name, x in shapes.items()},
                PREVIOUS: [list(actions.shape), np.dtype(actions.dtype).name],
                RESET: [[], "bool"],
                **({KEY: [[2], "uint32"]} if draws(algorithm) else {}),
            },
        },
        "run": {
            "name": run.config.name,
            "algo": run.config.algo.name,
            "member": member,
            "seed": run.config.seed + member,
            "parameters": run.kind,
            "scores": {name: float(values[member]) for name, values in run.scores.items()},
            **{name: manifest[name] for name in ("started", "versions", "git", "config")},
        },
    }


def precision(cfg: config.ExperimentConfig) -> Any:
    """The precision of matrix products in which a run acted."""
    name = "default" if cfg.precision == "bfloat16" else cfg.precision
    return jax.default_matmul_precision(name)


def _named_carry(
    algorithm: algorithms.Algorithm,
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[Mapping[str, Array]], Any]]:
    """The arrays of a carry with B = 1 by name, and the carry of a state that holds them."""
    shapes = jax.eval_shape(lambda: algorithm.initial_carry(1)["act"])
    named, structure = _names(shapes), jax.tree.structure(shapes)
    return named, lambda state: jax.tree.unflatten(structure, [state[name] for name in named])


def _names(carry: Any) -> dict[str, Any]:
    """`carry`, or for a carry of several arrays `carry/hidden` and so on."""
    leaves = jax.tree.flatten_with_path(carry)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    names = [f"{CARRY}/{path}" if path else CARRY for path in paths]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))
