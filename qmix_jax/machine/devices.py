"""Which devices a run uses, settled before JAX starts its backend."""

import os
import pathlib
import sys
from collections.abc import Sequence

import jax

from qmix_jax import config
from qmix_jax.types import Device

_COUNT_FLAG = "xla_force_host_platform_device_count"


def cores() -> int:
    """Number of CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(n_members: int, devices: int | None) -> str | None:
    """Makes one host device per member, up to the number of cores; call it before anything else.

    Host devices can be made only before the backend starts, and importing jaxmarl starts it. This
    function starts nothing. Where an accelerator turns up later, the host devices lie idle.

    Args:
      n_members: P.
      devices: number of devices wanted, or None for `min(n_members, cores())`.
    Returns:
      A line for the user where fewer host devices are used than wanted because the backend is up
      already, or where the environment has settled their number; None otherwise.
    Raises:
      ConfigError: the backend is up and has fewer than `devices` devices.
    """
    setter = _environment_setting()
    if devices is None and setter:
        return f"devices: the number of host devices is left as {setter} sets it"
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
        f"devices: JAX is running already, with {existing} of the {wanted} host devices wanted; "
        "members share them (restart the process to use more cores)"
    )


def local(n_members: int, devices: int | None) -> tuple[Device, ...]:
    """The devices that members are spread over; starts the backend.

    Args:
      n_members: P; there are never more devices than members.
      devices: number of devices wanted, or None for all of the default backend.
    Raises:
      ConfigError: fewer than `devices` devices exist.
    """
    existing = jax.local_devices()
    if devices is not None and devices > len(existing):
        raise config.ConfigError(
            f"devices: population.devices={devices} but JAX has {len(existing)} "
            f"{existing[0].platform} device(s); set population.devices to null or at most "
            f"{len(existing)}, or restart the process if it was running before this run"
        )
    return tuple(existing[: min(n_members, devices or len(existing))])


def memory(used: Sequence[Device]) -> int:
    """Bytes that members may take on these devices together: of accelerators what their backend
    may hold, of CPUs what the machine, or this process's control group, has to spare.
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
    """What is left of the control group's limit (version 2, then 1)."""
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
