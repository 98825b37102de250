"""Devices of a run, chosen before JAX starts its backend."""

import os
import pathlib
import sys
from collections.abc import Sequence

import jax

from qmix_jax import config
from qmix_jax.types import Device

_COUNT_FLAG = "xla_force_host_platform_device_count"


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(n_members: int, devices: int | None) -> str | None:
    """Creates one host device per member, up to the number of cores; call it first.

    Host devices can be created only before the backend starts. Importing jaxmarl starts it; this
    function does not. With an accelerator they stay idle.

    Args:
      n_members: P.
      devices: number of devices, or None for `min(n_members, cores())`.
    Returns:
      A message if the backend already runs with too few host devices, or if an environment
      variable sets their number; None otherwise.
    Raises:
      ConfigError: the backend already runs and has fewer than `devices` devices.
    """
    variable = _environment_setting()
    if devices is None and variable:
        return f"devices: the number of host devices is set by {variable}"
    wanted = min(n_members, devices or cores())
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # JAX refuses the change because its backend is up
        existing = len(local(n_members, devices))
    else:
        return None
    if jax.default_backend() != "cpu" or existing >= wanted:
        return None
    return (
        f"devices: JAX is running already, with {existing} host devices instead of {wanted}; "
        "members share them (restart the process to use more cores)"
    )


def local(n_members: int, devices: int | None) -> tuple[Device, ...]:
    """Returns the devices that the members are spread over; starts the backend.

    Args:
      n_members: P, the most devices that are used.
      devices: number of devices, or None for all of the default backend.
    Raises:
      ConfigError: fewer than `devices` devices exist.
    """
    existing = jax.local_devices()
    if devices is not None and devices > len(existing):
        raise config.ConfigError(
            f"devices: population.devices={devices} but JAX has {len(existing)} "
            f"{existing[0].platform} device(s); set population.devices to null or at most "
            f"{len(existing)}, or restart the process if JAX was running before this run"
        )
    return tuple(existing[: min(n_members, devices or len(existing))])


def memory(used: Sequence[Device]) -> int:
    """Returns the bytes available on these devices together: the backend's limit on accelerators;
    on CPUs the free memory of the machine or of this process's control group, if less.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in used]
    if all(limits):
        return sum(map(int, filter(None, limits)))
    return min(_machine(), _control_group())


def _machine() -> int:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _control_group() -> int:
    """Returns the free memory of the control group (version 2, then 1)."""
    base = pathlib.Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return int((base / limit).read_text()) - int((base / used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return sys.maxsize


def _environment_setting() -> str | None:
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return "JAX_NUM_CPU_DEVICES"
    return f"--{_COUNT_FLAG}" if _COUNT_FLAG in os.environ.get("XLA_FLAGS", "") else None
