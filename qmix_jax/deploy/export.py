"""`qmix-jax export`: a trained policy as files that need JAX alone, or NumPy alone."""

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


class RefusedError(Exception):
    """Why a policy is not exported in a format."""


class _Source(NamedTuple):
    """What is exported, and what it is compared with.

    Attributes:
      run, member: the policy.
      about: its description.
      platforms: which the StableHLO is for.
      played: what `Algorithm.act` does.
      platform: where formats are compared with that.
    """

    run: trained.TrainedRun
    member: int
    about: Mapping[str, Any]
    platforms: tuple[str, ...]
    played: agreement.ReferenceRollout
    platform: str


def export_run(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = FORMATS,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    member: int | str = "best",
    parameters: trained.Kind = "best",
) -> pathlib.Path:
    """Writes a trained policy into a folder of its own, in formats that act as `Algorithm.act`
    does: each is compared with it on 64 random inputs first.

    Args:
      directory: a run directory.
      out: the folder; by default `export` in the run directory. An earlier export there goes.
      formats: `stablehlo`: `policy.stablehlo`, a program with its weights inside, which JAX loads
        without this package (`jax.export`; it takes flatbuffers to write and to read). `numpy`:
        `weights.npz` and `runner.py`, which takes NumPy alone. `README.md` and `metadata.json`
        say how. If only one of them can act as the run does, that one is written, with a warning.
      platforms: which the StableHLO is for, of cpu, cuda, rocm and tpu.
      member, parameters: as for `load_policy`.
    Returns:
      The folder.
    Raises:
      ConfigError: not the directory of a run that has ended, no such format or platform, no
        flatbuffers, no format that acts as the run does, or a folder that cannot be written or
        holds other things. NumPy cannot act as agents of your own do, as bfloat16 does, or as an
        algorithm that states no `Algorithm.head`.
    """
    _check("--format", formats, FORMATS)
    _check("--platforms", platforms, PLATFORMS)
    run = trained.read(directory, parameters)
    which = run.member(member)
    about = {
        **policy.about(run, which),
        "exported_with": {"jax": jax.__version__, "qmix_jax": qmix_jax.__version__},
    }
    # What can be refused is, before anything is written.
    contents, refused = _contents(run, which, about, formats, platforms)
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


def _check(flag: str, chosen: Sequence[str], allowed: Sequence[str]) -> None:
    for name in chosen:
        if name not in allowed:
            raise config.ConfigError(f"export: {flag} {name!r}: {config.suggest(name, allowed)}")
    if not chosen:
        raise config.ConfigError(f"export: {flag} is empty; allowed: {', '.join(allowed)}")


def _replace(folder: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Writes files in place of those of an earlier export: no two policies side by side.

    Raises: ConfigError for a folder with anything else in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {path.name for path in folder.iterdir()} - {"__pycache__"}
    ours = {*policy.FILES, policy.METADATA, "runner.py", "README.md"}
    if not found <= ours or (found and policy.METADATA not in found):
        raise config.ConfigError(
            f"export: {str(folder)!r} holds more than an earlier export; choose another --out"
        )
    for name in found:
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
    """(the files of the formats by name, the formats that are refused and why).

    Raises: ConfigError if that is all of them.
    """
    cpu = _cpu()  # accelerators may round matrix products, each program in its own way
    with jax.default_device(cpu), policy.precision(run.config):
        source = _Source(
            run=run,
            member=member,
            about=about,
            platforms=tuple(platforms),
            played=agreement.play(run, member),
            platform="cpu" if cpu else export.default_export_platform(),
        )
        contents, refused = _compared(source, formats)
    if not contents:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        others = [name for name in FORMATS if name not in formats]
        more = f"; use --format {others[0]}" if others else "; act with qmix_jax.load_policy"
        raise config.ConfigError(f"export: {reasons}{more}")
    return contents, refused


def _compared(
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
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None


def _refuse_difference(
    source: _Source, file: str, step: runner.Step, other_draws: bool = False
) -> None:
    """Raises: RefusedError if the step does not act as the algorithm does."""
    difference = agreement.difference(source.played, source.about, step, other_draws)
    if difference is not None:
        raise RefusedError(f"{file} would act unlike the run: {difference}")


def _stablehlo(source: _Source) -> dict[str, bytes]:
    try:
        content = bytes(_program(source, source.platforms).serialize())
    except ImportError as error:
        raise config.ConfigError(
            f"export: {policy.FLATBUFFERS}; or choose --format numpy"
        ) from error
    program = export.deserialize(bytearray(content))
    if source.platform not in source.platforms:
        program = _program(source, (source.platform,))
    _refuse_difference(source, "policy.stablehlo", policy.step_of(program))
    return {"policy.stablehlo": content}


def _program(source: _Source, platforms: tuple[str, ...]) -> export.Exported:
    """`(obs, avail_actions, state) -> (actions, head, state)` for any number of environments."""
    step, spec = policy.make_step(source.run), source.run.spec
    (batch,) = export.symbolic_shape("b")
    of = jax.ShapeDtypeStruct
    state = {
        name: of(tuple(shape) if name == policy.KEY else (batch, *shape), jnp.dtype(dtype))
        for name, (shape, dtype) in source.about["interface"]["state"].items()
    }
    obs = of((batch, spec.n_agents, *spec.obs_shape), jnp.float32)
    avail = of((batch, spec.n_agents, spec.actions.width), jnp.bool_)
    # Those that acting does not use are no part of the program.
    constants = jax.tree.map(jnp.asarray, source.run.own(source.member))
    act = jax.jit(lambda obs, avail, state: step(constants, obs, avail, state))
    return export.export(act, platforms=platforms)(obs, avail, state)


def _numpy(source: _Source) -> dict[str, bytes]:
    network = _network(source.run)
    arrays = files.flatten(source.run.own(source.member)["agent"])
    step = runner.network(network, arrays)
    _refuse_difference(source, "weights.npz", step, other_draws=True)
    metadata = json.dumps({**source.about, "network": network}).encode()
    weights = io.BytesIO()
    files.write_arrays(weights, {**arrays, "metadata": np.frombuffer(metadata, np.uint8)})
    code = pathlib.Path(__file__).with_name("runner.py").read_bytes()
    return {"weights.npz": weights.getvalue(), "runner.py": code}


def _network(run: trained.TrainedRun) -> dict[str, Any]:
    """What `runner.network` must know. Raises: RefusedError for what it cannot do."""
    agent, spec, algorithm = run.config.agent, run.spec, policy.acting(run)
    if algorithm.head is None:
        raise RefusedError(
            f"{run.config.algo.name} states no `Algorithm.head`, so how it acts is known to its "
            "`act` alone"
        )
    if agent.name not in _CORES:
        raise RefusedError(
            f"agent {agent.name!r} has no NumPy runner ({', '.join(_CORES)} have one)"
        )
    if run.config.precision == "bfloat16":
        raise RefusedError("a bfloat16 run has no NumPy runner, for only XLA rounds as XLA does")
    if policy.make_head(run, algorithm) is None:
        raise RefusedError(
            f"{run.config.algo.name} states Algorithm.head={algorithm.head}, but its agent's "
            "parameters and carry are not those of a network with a head of that width"
        )
    options: Any = agent.options
    names = (mlp if agent.name == "mlp" else _recurrent).layer_names(options)
    torso = base.make_torso(options, spec, names)
    image = torso.image and {
        "shape": list(torso.image.shape),
        "convolutions": len(torso.image.channels),
    }
    return {
        "core": _CORES[agent.name],
        "head": algorithm.head,
        "width": spec.actions.width,
        "low": spec.actions.low if isinstance(spec.actions, Box) else None,
        "high": spec.actions.high if isinstance(spec.actions, Box) else None,
        "groups": [list(group) for group in base.sharing_groups(options, spec)],
        "last_action": options.last_action,
        "agent_id": options.agent_id,
        "n_states": spec.n_states,
        "dense": list(names),
        "image": image,
    }
