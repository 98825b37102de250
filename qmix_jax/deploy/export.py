"""`qmix-jax export`: writes a trained policy as files that need only JAX, or only NumPy."""

import io
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import qmix_jax
from qmix_jax import config
from qmix_jax.agents import _recurrent, base, mlp
from qmix_jax.deploy import agreement, policy, readme, runner, trained
from qmix_jax.runs import parameters as files
from qmix_jax.runs import storage
from qmix_jax.types import Box

FORMATS = ("stablehlo", "numpy")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
_CORES = {"gru": "gru", "lstm": "lstm", "mlp": None}
"""Agent -> core of its NumPy implementation."""


class RefusedError(Exception):
    """A format cannot represent the policy."""


class _Source(NamedTuple):
    """The policy to export, and its reference.

    Attributes:
      run, member: the policy.
      about: its metadata.
      platforms: of the StableHLO program.
      reference: rollout of `Algorithm.act`.
      platform: on which formats are compared with the reference.
    """

    run: trained.TrainedRun
    member: int
    about: Mapping[str, Any]
    platforms: tuple[str, ...]
    reference: agreement.ReferenceRollout
    platform: str


def export_run(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = FORMATS,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    member: int | str = "best",
    parameters: trained.Kind = "best",
) -> pathlib.Path:
    """Exports a trained policy; every format is first compared with `Algorithm.act` on 64 random
    inputs.

    Args:
      directory: a run directory.
      out: output folder; by default `export` in the run directory. Replaces an earlier export.
      formats: `stablehlo`: `policy.stablehlo`, a program that contains its weights and that JAX
        loads without this package (`jax.export`; writing and reading need flatbuffers). `numpy`:
        `weights.npz` and `runner.py`, which need NumPy only. `README.md` and `metadata.json`
        explain both. If only one format can represent the policy, it is written, with a warning.
      platforms: of the StableHLO program: cpu, cuda, rocm, tpu.
      member, parameters: as for `load_policy`.
    Returns:
      The output folder.
    Raises:
      ConfigError: not the directory of a finished run, unknown format or platform, flatbuffers
        missing, no format that acts as the run does, or a folder that is not writable or has other
        files. NumPy supports no user-defined agents, no bfloat16, and no algorithm that states no
        `Algorithm.head`.
    """
    for flag, names, allowed in (
        ("--format", formats, FORMATS),
        ("--platforms", platforms, PLATFORMS),
    ):
        if not names:
            raise config.ConfigError(f"export: {flag} is empty; allowed: {', '.join(allowed)}")
        if unknown := [name for name in names if name not in allowed]:
            hint = config.suggest(unknown[0], allowed)
            raise config.ConfigError(f"export: {flag} {unknown[0]!r}: {hint}")
    run = trained.read(directory, parameters)
    index = run.member(member)
    about = {
        **policy.about(run, index),
        "exported_with": {"jax": jax.__version__, "qmix_jax": qmix_jax.__version__},
    }
    # Everything that can fail runs before anything is written.
    contents, refused = _contents(run, index, about, formats, platforms)
    about["formats"] = [name for name in formats if name not in refused]
    about["platforms"] = list(platforms)
    contents[policy.METADATA] = json.dumps(about, indent=2).encode()
    contents["README.md"] = readme.text(about).encode()
    folder = pathlib.Path(out or run.directory / "export")
    try:
        _replace(folder, contents)
    except OSError as error:
        raise config.ConfigError(
            f"export: cannot write to {str(folder)!r} ({error.strerror}); choose another --out"
        ) from error
    for name, reason in refused.items():
        warnings.warn(f"export: {name} is not written: {reason}", stacklevel=2)
    return folder


def _replace(folder: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Writes files in place of an earlier export, so that a folder has one policy.

    Raises: ConfigError for a folder with other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = {path.name for path in folder.iterdir()} - {"__pycache__"}
    exported = {*policy.FILES, policy.METADATA, "runner.py", "README.md"}
    if not present <= exported or (present and policy.METADATA not in present):
        raise config.ConfigError(
            f"export: {str(folder)!r} has files that are not from an export; choose another --out"
        )
    for name in present:
        (folder / name).unlink()
    for name, content in contents.items():
        with storage.atomic(folder / name) as file:
            file.write(content)


def _contents(
    run: trained.TrainedRun,
    member: int,
    about: Mapping[str, Any],
    formats: Sequence[str],
    platforms: Sequence[str],
) -> tuple[dict[str, bytes], dict[str, RefusedError]]:
    """(file contents by name, reasons by refused format).

    Raises: ConfigError if all formats are refused.
    """
    cpu = _cpu()  # accelerators round matrix products differently in every program
    with jax.default_device(cpu), policy.precision(run.config):
        source = _Source(
            run=run,
            member=member,
            about=about,
            platforms=tuple(platforms),
            reference=agreement.reference_rollout(run, member),
            platform="cpu" if cpu else export.default_export_platform(),
        )
        contents, refused = _export_formats(source, formats)
    if not contents:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        others = [name for name in FORMATS if name not in formats]
        fix = f"use --format {others[0]}" if others else "use qmix_jax.load_policy"
        raise config.ConfigError(f"export: {reasons}; {fix}")
    return contents, refused


def _export_formats(
    source: _Source, formats: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, RefusedError]]:
    contents, refused = {}, {}
    for name in formats:
        try:
            contents |= {"stablehlo": _stablehlo, "numpy": _numpy}[name](source)
        except RefusedError as reason:
            refused[name] = reason
    return contents, refused


def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # excluded by JAX_PLATFORMS
        return None


def _check_agreement(
    source: _Source, file: str, step: runner.Step, compare_probabilities: bool = False
) -> None:
    """Raises: RefusedError if the step does not act as the algorithm does."""
    difference = agreement.difference(source.reference, source.about, step, compare_probabilities)
    if difference is not None:
        raise RefusedError(f"{file} does not act as the run does: {difference}")


def _stablehlo(source: _Source) -> dict[str, bytes]:
    try:
        content = bytes(_program(source, source.platforms).serialize())
    except ImportError as error:
        raise config.ConfigError(
            f"export: {policy.INSTALL_FLATBUFFERS}; or choose --format numpy"
        ) from error
    exported = export.deserialize(bytearray(content))
    if source.platform not in source.platforms:
        exported = _program(source, (source.platform,))
    _check_agreement(source, "policy.stablehlo", policy.program_step(exported))
    return {"policy.stablehlo": content}


def _program(source: _Source, platforms: tuple[str, ...]) -> export.Exported:
    """`(obs, avail_actions, state) -> (actions, head, state)` for any number of environments."""
    step, spec = policy.make_step(source.run), source.run.spec
    (batch,) = export.symbolic_shape("b")
    shape_of = jax.ShapeDtypeStruct
    state = {
        name: shape_of(tuple(shape) if name == policy.KEY else (batch, *shape), jnp.dtype(dtype))
        for name, (shape, dtype) in source.about["interface"]["state"].items()
    }
    obs = shape_of((batch, spec.n_agents, *spec.obs_shape), jnp.float32)
    avail = shape_of((batch, spec.n_agents, spec.actions.width), jnp.bool_)
    # Constants that acting does not use are removed from the program.
    constants = jax.tree.map(jnp.asarray, source.run.member_params(source.member))
    act = jax.jit(lambda obs, avail, state: step(constants, obs, avail, state))
    return export.export(act, platforms=platforms)(obs, avail, state)


def _numpy(source: _Source) -> dict[str, bytes]:
    network = _network(source.run)
    arrays = files.flatten(source.run.member_params(source.member)["agent"])
    step = runner.network_step(network, arrays)
    _check_agreement(source, "weights.npz", step, compare_probabilities=True)
    metadata = json.dumps({**source.about, "network": network}).encode()
    weights = io.BytesIO()
    files.write_arrays(weights, {**arrays, "metadata": np.frombuffer(metadata, np.uint8)})
    code = pathlib.Path(__file__).with_name("runner.py").read_bytes()
    return {"weights.npz": weights.getvalue(), "runner.py": code}


def _network(run: trained.TrainedRun) -> dict[str, Any]:
    """Argument of `runner.network_step`. Raises: RefusedError if NumPy does not support the run."""
    agent, spec, algorithm = run.config.agent, run.spec, policy.make_algorithm(run)
    if algorithm.head is None:
        raise RefusedError(
            f"{run.config.algo.name} states no `Algorithm.head`, which maps outputs to actions"
        )
    if agent.name not in _CORES:
        raise RefusedError(
            f"agent {agent.name!r} has no NumPy implementation ({', '.join(_CORES)} have one)"
        )
    if run.config.precision == "bfloat16":
        raise RefusedError("NumPy does not support bfloat16: only XLA rounds as XLA does")
    if policy.make_head(run, algorithm) is None:
        raise RefusedError(
            f"{run.config.algo.name} states Algorithm.head={algorithm.head}, but its parameters "
            "and carry are not those of an agent with a head of that width"
        )
    options: Any = agent.options
    names = (mlp if agent.name == "mlp" else _recurrent).layer_names(options)
    torso = base.make_torso(options, spec, names)
    image = torso.image and {
        "shape": list(torso.image.shape),
        "convolutions": len(torso.image.channels),
    }
    bounds = (spec.actions.low, spec.actions.high) if isinstance(spec.actions, Box) else (None,) * 2
    return {
        "core": _CORES[agent.name],
        "head": algorithm.head,
        "width": spec.actions.width,
        "low": bounds[0],
        "high": bounds[1],
        "groups": [list(group) for group in base.sharing_groups(options, spec)],
        "last_action": options.last_action,
        "agent_id": options.agent_id,
        "n_states": spec.n_states,
        "dense": list(names),
        "image": image,
    }
