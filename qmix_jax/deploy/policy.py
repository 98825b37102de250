"""Loads trained policies from run directories and exported files."""

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
"""Names of arrays in a state; `CARRY` is a prefix if the carry has several arrays."""
FILES = ("policy.stablehlo", "weights.npz")
METADATA = "metadata.json"
INSTALL_FLATBUFFERS = (
    "serialised programs need flatbuffers: pip install flatbuffers (or qmix-jax[export])"
)


def load_policy(
    path: str | os.PathLike[str],
    member: int | str = "best",
    parameters: trained.Kind = "best",
) -> runner.Policy:
    """Loads a trained decentralised policy, without training or environment.

        policy = qmix_jax.load_policy("runs/smax_3m/qmix/...")
        state = policy.initial_state()                      # at the start of every episode
        actions, state = policy.act(obs, avail_actions, state)

    `policy.agent("ally_0")` is the policy of one agent, which takes only that agent's observation.

    Args:
      path: a run directory, or a folder or file written by `export_run`.
      member: member of a run; `best` is the one with the best greedy evaluation.
      parameters: of a run's best evaluation, or of its end.
    Returns:
      A `Policy` of NumPy arrays, which explores only if given an epsilon.
    Raises:
      ConfigError: no policy at the path, an unfinished run, an unknown member, or an algorithm that
        needs more inputs than a policy has.
    """
    root = pathlib.Path(path)
    file = exported_file(root)
    if file is not None:
        return from_export(file)
    run = trained.read(root, parameters)
    return from_run(run, run.member(member))


def from_run(run: trained.TrainedRun, member: int) -> runner.Policy:
    """Makes the policy of one member of a run."""
    step = jax.jit(make_step(run))
    params = jax.device_put(run.member_params(member))

    def compiled(obs: np.ndarray, avail: np.ndarray, state: runner.Arrays) -> Any:
        with precision(run.config):
            return step(params, obs, avail, dict(state))

    return runner.make_policy(about(run, member), compiled)


def exported_file(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the exported policy at a path, a file or a folder; None if there is none.

    If a folder has both formats, returns StableHLO, which also runs on accelerators.
    """
    if path.is_file():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)


def from_export(file: pathlib.Path) -> runner.Policy:
    """Loads the policy of an exported file. Raises: ConfigError if it has none."""
    try:
        if file.suffix == ".npz":
            return runner.load(file)
        metadata = json.loads((file.parent / METADATA).read_text(encoding="utf-8"))
        runner.check_format(metadata, file)
        exported = export.deserialize(bytearray(file.read_bytes()))
    except runner.FormatError as error:
        raise config.ConfigError(str(error)) from error
    except ImportError as error:
        raise config.ConfigError(f"policy: {file.name}: {error}; {INSTALL_FLATBUFFERS}") from error
    except Exception as error:  # parsers of corrupt files raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise config.ConfigError(
            f"policy: cannot read {str(file)!r} ({reason}); give a run directory, or the folder or "
            f"a file ({', '.join(FILES)}) that `qmix-jax export` wrote"
        ) from error
    platform = export.default_export_platform()
    if platform not in exported.platforms:
        raise config.ConfigError(
            f"policy: {str(file)!r} is for {', '.join(exported.platforms)}, and this is "
            f"{platform}; export it with --platforms {platform}"
        )
    return runner.make_policy(metadata, program_step(exported))


def program_step(exported: export.Exported) -> runner.Step:
    """Returns the step of an exported program."""
    call = jax.jit(exported.call)
    return lambda obs, avail, state: call(obs, avail, dict(state))


def make_step(run: trained.TrainedRun) -> Callable[..., tuple[Array, Any, dict[str, Array]]]:
    """Makes `Algorithm.act` without exploration: `(params, obs f32[B, N, *O], avail_actions bool[B,
    N, A], state) -> (actions, head, state)`; a state is a dict of arrays, see `about`.

    `head` f32[B, N, A] is the output of the agent's network, for Q-learning its utilities; None if
    the algorithm states no `Algorithm.head`.

    Raises: ConfigError for an algorithm that needs more inputs than a policy has.
    """
    algorithm = make_algorithm(run)
    _, rebuild = _named_carry(algorithm)
    head_of, samples = make_head(run, algorithm), is_stochastic(algorithm)

    def step(
        params: Any, obs: Array, avail: Array, state: Mapping[str, Array]
    ) -> tuple[Array, Any, dict[str, Array]]:
        reset, previous = state[RESET], state[PREVIOUS]
        starts = jnp.expand_dims(reset, range(1, previous.ndim))
        observed = Observed(
            obs=obs,
            prev_actions=jnp.where(starts, no_action(previous), previous),
            reset=reset,
            avail_actions=avail,
        )
        next_state, key = next_key(state[KEY]) if samples else ({}, jax.random.key(0))
        carry = rebuild(state)
        new_carry, actions, _ = algorithm.act(params, carry, observed, algorithm.greedy, key)
        next_state |= {PREVIOUS: actions, RESET: jnp.zeros_like(reset), **_names(new_carry)}
        return actions, head_of and head_of(params, carry, observed), next_state

    return step


def make_algorithm(run: trained.TrainedRun) -> algorithms.Algorithm:
    """Makes a run's algorithm. Raises: ConfigError if it needs more inputs than a policy has."""
    algorithm = run.algorithm()
    if algorithm.needs.mean_action:
        raise config.ConfigError(
            f"policy: {run.config.algo.name} acts on the mean action of each agent's neighbours, "
            "which a policy does not receive; use `qmix-jax evaluate`"
        )
    return algorithm


def is_stochastic(algorithm: algorithms.Algorithm) -> bool:
    """Whether it may act at random even without exploration, according to its head."""
    return algorithm.head not in ("argmax", "tanh")


def next_key(data: Array) -> tuple[dict[str, Array], Array]:
    """Splits key data u32[2] into (`{KEY: data}` of the next state, the key of this step)."""
    following, key = jax.random.split(jax.random.wrap_key_data(data, impl="threefry2x32"))
    return {KEY: jax.random.key_data(following)}, key


def make_head(
    run: trained.TrainedRun, algorithm: algorithms.Algorithm
) -> Callable[[Any, Any, Observed], Array] | None:
    """Returns the head that the algorithm states, `(params, carry, Observed[B]) -> f32[B, N, A]`;
    None if it states none, or if its parameters and carry are not those of such an agent.
    """
    if algorithm.head is None:
        return None
    agent = program.make_agent(run.config, run.spec, run.spec.actions.width)
    expected = jax.eval_shape(lambda: (agent.init(jax.random.key(0)), agent.initial_carry(1)))
    carry = jax.eval_shape(lambda: algorithm.initial_carry(1)["act"])
    if _shapes((run.member_params(0).get("agent"), carry)) != _shapes(expected):
        return None
    return lambda params, carry, observed: agents.step(agent, params["agent"], carry, observed)[1]


def _shapes(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]


def about(run: trained.TrainedRun, member: int) -> dict[str, Any]:
    """Returns the metadata of a policy as plain values: interface and origin."""
    spec, manifest, algorithm = run.spec, run.manifest, make_algorithm(run)
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
                **({KEY: [[2], "uint32"]} if is_stochastic(algorithm) else {}),
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
    """Returns a context manager with the matrix-product precision of the run."""
    name = "default" if cfg.precision == "bfloat16" else cfg.precision
    return jax.default_matmul_precision(name)


def _named_carry(
    algorithm: algorithms.Algorithm,
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[Mapping[str, Array]], Any]]:
    """The arrays of a carry with B = 1 by name, and a function state -> carry."""
    shapes = jax.eval_shape(lambda: algorithm.initial_carry(1)["act"])
    named, structure = _names(shapes), jax.tree.structure(shapes)
    return named, lambda state: jax.tree.unflatten(structure, [state[name] for name in named])


def _names(carry: Any) -> dict[str, Any]:
    """`carry`, or `carry/hidden` and so on if the carry has several arrays."""
    leaves = jax.tree.flatten_with_path(carry)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    names = [f"{CARRY}/{path}" if path else CARRY for path in paths]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))
