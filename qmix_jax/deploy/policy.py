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
from qmix_jax.core import qvalues
from qmix_jax.deploy import runner, trained
from qmix_jax.types import Array

CARRY, PREVIOUS, RESET = "carry", "prev_actions", "reset"
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
      A `Policy`: takes and gives NumPy arrays, greedy unless given an epsilon.
    Raises:
      ConfigError: none of these, a run that has not ended, or no such member.
    """
    root = pathlib.Path(path)
    file = exported_file(root)
    if file is not None:
        return of_export(file)
    run = trained.read(root, parameters)
    return of_run(run, run.member(member))


def of_run(run: trained.Trained, member: int) -> runner.Policy:
    """The policy of one member of a run."""
    step = make_step(run)
    own = jax.device_put(run.own(member)["agent"])

    def compiled(obs: np.ndarray, avail: np.ndarray, state: runner.Arrays) -> Any:
        with precision(run.config):
            return step(own, obs, avail, dict(state))

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
        program = export.deserialize(bytearray(file.read_bytes()))
    except ImportError as error:
        raise config.ConfigError(f"policy: {file.name}: {error}; {FLATBUFFERS}") from error
    except Exception as error:  # whatever the parsers of foreign bytes raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise config.ConfigError(
            f"policy: cannot read {str(file)!r} ({reason}); give a run directory, or the folder or "
            f"a file ({', '.join(FILES)}) that `qmix-jax export` wrote"
        ) from error
    if jax.default_backend() not in program.platforms:
        raise config.ConfigError(
            f"policy: {str(file)!r} is for {', '.join(program.platforms)}, and this is "
            f"{jax.default_backend()}; export it with --platforms {jax.default_backend()}"
        )
    call = jax.jit(program.call)
    return runner.make(described, lambda obs, avail, state: call(obs, avail, dict(state)))


def make_step(run: trained.Trained) -> Callable[..., tuple[Array, Array, dict[str, Array]]]:
    """Jitted `(agent's parameters, obs f32[B, N, *O], avail_actions bool[B, N, A], state) ->
    (actions i32[B, N], q f32[B, N, A], state)`; a state is a dict of arrays, `[B, ...]`.
    """
    agent = program.make_agent(run.config, run.spec)
    _, rebuild = _named_carry(agent)

    @jax.jit
    def step(
        params: Any, obs: Array, avail: Array, state: Mapping[str, Array]
    ) -> tuple[Array, Array, dict[str, Array]]:
        reset = state[RESET]
        previous = jnp.where(reset[:, None], -1, state[PREVIOUS])
        carry, q, _ = agent.unroll(params, rebuild(state), obs[None], previous[None], reset[None])
        actions = qvalues.greedy(q[0], avail)
        after = {**_names(carry), PREVIOUS: actions, RESET: jnp.zeros_like(reset)}
        return actions, q[0], after

    return step


def about(run: trained.Trained, member: int) -> dict[str, Any]:
    """What is written down of a policy: its interface, and where it comes from; plain values."""
    spec, manifest = run.spec, run.manifest
    agent = program.make_agent(run.config, spec)
    shapes, _ = _named_carry(agent)
    return {
        "interface": {
            "env": spec.name,
            "agent_names": list(spec.agent_names),
            "n_actions": list(spec.n_actions),
            "obs_shapes": [list(shape) for shape in spec.obs_shapes],
            "obs_shape": list(spec.obs_shape),
            "state": {
                **{name: [list(x.shape[1:]), x.dtype.name] for name, x in shapes.items()},
                PREVIOUS: [[spec.n_agents], "int32"],
                RESET: [[], "bool"],
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
    agent: agents.Agent,
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[Mapping[str, Array]], Any]]:
    """The arrays of a carry with B = 1 by name, and the carry of a state that holds them."""
    shapes = jax.eval_shape(lambda: agent.initial_carry(1))
    named, structure = _names(shapes), jax.tree.structure(shapes)
    return named, lambda state: jax.tree.unflatten(structure, [state[name] for name in named])


def _names(carry: Any) -> dict[str, Any]:
    """`carry`, or for a carry of several arrays `carry/hidden` and so on."""
    leaves = jax.tree.flatten_with_path(carry)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    names = [f"{CARRY}/{path}" if path else CARRY for path in paths]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))
