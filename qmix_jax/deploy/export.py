"""`qmix-jax export`: a trained policy as files that need JAX alone, or NumPy alone."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import qmix_jax
from qmix_jax import config
from qmix_jax.agents import _recurrent, base, mlp
from qmix_jax.deploy import manual, policy, trained
from qmix_jax.runtime import parameters as files
from qmix_jax.runtime import sinks

FORMATS = ("stablehlo", "numpy")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
_CORES = {"gru": "gru", "lstm": "lstm", "mlp": None}


def export_run(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = FORMATS,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    member: int | str = "best",
    parameters: trained.Kind = "best",
) -> pathlib.Path:
    """Writes a trained policy into a folder of its own.

    Args:
      directory: a run directory.
      out: the folder; by default `export` in the run directory. An earlier export there goes.
      formats: `stablehlo`: `policy.stablehlo`, a program with its weights inside, which JAX loads
        without this package (`jax.export`; it takes flatbuffers to write and to read). `numpy`:
        `weights.npz` and `runner.py`, which takes NumPy alone. `README.md` and `metadata.json`
        say how.
      platforms: which the StableHLO is for, of cpu, cuda, rocm and tpu.
      member, parameters: as for `load_policy`.
    Returns:
      The folder.
    Raises:
      ConfigError: not the directory of a run that has ended, no such format or platform, no
        flatbuffers, an agent without a NumPy runner (of your own, or in bfloat16), or a folder
        that cannot be written or holds other things.
    """
    _check("--format", formats, FORMATS)
    _check("--platforms", platforms, PLATFORMS)
    run = trained.read(directory, parameters)
    which = run.member(member)
    about = {
        **policy.about(run, which),
        "formats": list(formats),
        "exported_with": {"jax": jax.__version__, "qmix_jax": qmix_jax.__version__},
    }
    own = run.own(which)["agent"]
    # What can be refused is, before anything is written.
    network = _network(run) if "numpy" in formats else None
    program = _stablehlo(run, own, about, platforms) if "stablehlo" in formats else None
    folder = pathlib.Path(out or run.directory / "export")
    try:
        _clear(folder)
        if program is not None:
            about["platforms"] = list(platforms)
            _write(folder / "policy.stablehlo", program)
        if network is not None:
            about["network"] = network
            files.save_parameters(folder / "weights.npz", {**own, "metadata": _as_bytes(about)})
            source = pathlib.Path(__file__).with_name("runner.py").read_bytes()
            _write(folder / "runner.py", source)
        _write(folder / policy.METADATA, json.dumps(about, indent=2).encode())
        _write(folder / "README.md", manual.text(about).encode())
    except OSError as error:
        raise config.ConfigError(
            f"export: cannot write to {str(folder)!r} ({error.strerror}); choose another --out"
        ) from error
    return folder


def _check(flag: str, chosen: Sequence[str], allowed: Sequence[str]) -> None:
    for name in chosen:
        if name not in allowed:
            raise config.ConfigError(f"export: {flag} {name!r}: {config.suggest(name, allowed)}")
    if not chosen:
        raise config.ConfigError(f"export: {flag} is empty; allowed: {', '.join(allowed)}")


def _clear(folder: pathlib.Path) -> None:
    """Makes the folder, without the files of an earlier export: no two policies side by side.

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


def _write(path: pathlib.Path, content: bytes) -> None:
    with sinks.atomic(path) as file:
        file.write(content)


def _as_bytes(about: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


def _stablehlo(
    run: trained.Trained, own: Any, about: Mapping[str, Any], platforms: Sequence[str]
) -> bytes:
    """`(obs, avail_actions, state) -> (actions, q, state)` for any number of environments."""
    step = policy.make_step(run)
    spec = run.spec
    (batch,) = export.symbolic_shape("b")
    of = jax.ShapeDtypeStruct
    state = {
        name: of((batch, *shape), jnp.dtype(dtype))
        for name, (shape, dtype) in about["interface"]["state"].items()
    }
    obs = of((batch, spec.n_agents, *spec.obs_shape), jnp.float32)
    avail = of((batch, spec.n_agents, spec.n_actions_max), jnp.bool_)
    constants = jax.tree.map(jnp.asarray, own)
    act = jax.jit(lambda obs, avail, state: step(constants, obs, avail, state))
    with policy.precision(run.config):
        exported = export.export(act, platforms=tuple(platforms))(obs, avail, state)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise config.ConfigError(
            f"export: {policy.FLATBUFFERS}; or choose --format numpy"
        ) from error


def _network(run: trained.Trained) -> dict[str, Any]:
    """What `runner.network` must know. Raises: ConfigError for an agent it does not have."""
    agent, spec = run.config.agent, run.spec
    if agent.name not in _CORES:
        raise config.ConfigError(
            f"export: agent {agent.name!r} has no NumPy runner; use --format stablehlo "
            f"(NumPy: {', '.join(_CORES)})"
        )
    if run.config.precision == "bfloat16":
        raise config.ConfigError(
            "export: a bfloat16 run has no NumPy runner, for only XLA rounds as XLA does; "
            "use --format stablehlo"
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
        "n_actions": spec.n_actions_max,
        "groups": [list(group) for group in base.sharing_groups(options, spec)],
        "last_action": options.last_action,
        "agent_id": options.agent_id,
        "dense": list(names),
        "image": image,
    }
