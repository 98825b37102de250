"""Checks the machine: devices, cores, memory, and the compile cache."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax

from qmix_jax.console import progress
from qmix_jax.doctor.checks import OK, WARN, Diagnostic, verdict
from qmix_jax.machine import compile_cache, devices

_SECTION = "Machine"
_MIN_BYTES = 2 * 2**30
"""Less memory or disk space than this is a warning."""
_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia")
_TPU = ("/dev/accel0", "/dev/vfio/0")


def check() -> Iterator[Diagnostic]:
    """Starts the backend, with a host device per core, as training with as many members would."""
    note = devices.prepare(devices.cores(), None)
    local = jax.local_devices()
    kinds, platform = sorted({device.device_kind for device in local}), local[0].platform
    suffix = "" if kinds == [platform] else f" ({platform})"
    message = f"{len(local)} x {', '.join(kinds)}{suffix}"
    yield Diagnostic(_SECTION, "devices", OK, message)
    if note is not None:
        yield Diagnostic(
            _SECTION, "host devices", WARN, note.removeprefix("devices: "),
            "to use more cores, unset it, or import qmix_jax first in a new process",
        )  # fmt: skip
    yield from _unused_accelerators(platform)
    yield _cores()
    memory = devices.memory(local)
    message = (
        f"{progress.human(memory)}B available to members on {progress.count(len(local), 'device')}"
    )
    fix = "lower replay.byte_budget and seeds"
    yield verdict(_SECTION, "memory", memory >= _MIN_BYTES, message, fix, WARN)
    yield _cache()


def _unused_accelerators(platform: str) -> Iterator[Diagnostic]:
    for name, paths, extra in (("GPU", _NVIDIA, "cuda13"), ("TPU", _TPU, "tpu")):
        if platform == "cpu" and any(map(os.path.exists, paths)):
            forced = "JAX_PLATFORMS" in os.environ
            fix = "unset JAX_PLATFORMS" if forced else f"pip install 'qmix-jax[{extra}]'"
            message = f"the machine has a {name}, but JAX uses the CPU"
            yield Diagnostic(_SECTION, name, WARN, message, fix)


def _cores() -> Diagnostic:
    usable, quota = devices.cores(), _quota()
    limit = "" if quota is None else f", control group: {quota:.3g} cores"
    message = f"{usable} of {os.cpu_count() or 1} usable{limit}"
    fix = f"start with `taskset -c 0-{max(0, int(quota or 0) - 1)}`: more threads slow each other"
    return verdict(_SECTION, "cores", quota is None or quota >= usable, message, fix, WARN)


def _quota() -> float | None:
    """Returns the control group's CPU quota (version 2, then 1) in cores; None if unlimited."""
    base = pathlib.Path("/sys/fs/cgroup")
    try:
        used, period = (base / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            used = (base / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (base / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if used in ("max", "-1") else int(used) / int(period)


def _cache() -> Diagnostic:
    path = _cache_folder()
    origin = "" if path == compile_cache.directory() else " (set in JAX's configuration)"
    files = [file.stat() for file in path.glob("*-cache")] if path.is_dir() else []
    size = progress.human(sum(file.st_size for file in files))
    message = f"{path}{origin}: {progress.count(len(files), 'program')}, {size}B"
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Diagnostic(
            _SECTION, "compile cache", WARN, f"{message}; not writable ({error.strerror})",
            "set XDG_CACHE_HOME to a writable folder; until then every start compiles again",
        )  # fmt: skip
    enough = free >= _MIN_BYTES
    message += "" if enough else f"; {progress.human(free)}B free on its disk"
    return verdict(_SECTION, "compile cache", enough, message, "free some space, or move it", WARN)


def _cache_folder() -> pathlib.Path:
    """Returns the folder in JAX's configuration, or else the default of runs."""
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore
    return pathlib.Path(chosen or compile_cache.directory())
