"""The machine: devices, cores, memory, and the cache of compiled programs."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax

from qmix_jax.console import progress
from qmix_jax.doctor.checks import OK, WARN, Diagnostic
from qmix_jax.machine import compile_cache, devices

_SECTION = "Machine"
_LITTLE = 2 * 2**30
_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia")
_TPU = ("/dev/accel0", "/dev/vfio/0")


def check() -> Iterator[Diagnostic]:
    """Starts the backend, with a host device per core, as training with as many members would."""
    note = devices.prepare(devices.cores(), None)
    found = jax.local_devices()
    yield Diagnostic(_SECTION, "devices", OK, _describe(found))
    if note is not None:
        yield Diagnostic(
            _SECTION, "host devices", WARN, note.removeprefix("devices: "),
            "where a run should use more cores: unset it, or begin a new process with qmix_jax",
        )  # fmt: skip
    yield from _idle(found[0].platform)
    yield _cores()
    memory = devices.memory(found)
    text = f"{progress.human(memory)}B for members on {progress.count(len(found), 'device')}"
    if memory < _LITTLE:
        yield Diagnostic(_SECTION, "memory", WARN, text, "lower replay.byte_budget and seeds")
    else:
        yield Diagnostic(_SECTION, "memory", OK, text)
    yield _cache()


def _describe(found: list) -> str:
    kinds = sorted({device.device_kind for device in found})
    platform = found[0].platform
    suffix = "" if kinds == [platform] else f" ({platform})"
    return f"{len(found)} x {', '.join(kinds)}{suffix}"


def _idle(platform: str) -> Iterator[Diagnostic]:
    """Accelerators of the machine that JAX does not see."""
    for name, places, extra in (("GPU", _NVIDIA, "cuda13"), ("TPU", _TPU, "tpu")):
        if platform == "cpu" and any(map(os.path.exists, places)):
            forced = "JAX_PLATFORMS" in os.environ
            fix = "unset JAX_PLATFORMS" if forced else f"pip install 'qmix-jax[{extra}]'"
            yield Diagnostic(_SECTION, name, WARN, f"there is a {name}, but JAX uses the CPU", fix)


def _cores() -> Diagnostic:
    usable, all_cores = devices.cores(), os.cpu_count() or 1
    text = f"{usable} of {all_cores} usable"
    quota = _quota()
    if quota is not None and quota < usable:
        return Diagnostic(
            _SECTION, "cores", WARN,
            f"{text}, but the control group grants the time of {quota:.3g}",
            f"start with `taskset -c 0-{max(0, int(quota) - 1)}`: more threads than that get in "
            "each other's way",
        )  # fmt: skip
    limit = "" if quota is None else f", control group: {quota:.3g}"
    return Diagnostic(_SECTION, "cores", OK, text + limit)


def _quota() -> float | None:
    """Cores' worth of time that the control group (version 2, then 1) grants; None: no limit."""
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
    by = "" if path == compile_cache.directory() else " (chosen by JAX's own setting)"
    files = [file.stat() for file in path.glob("*-cache")] if path.is_dir() else []
    size = progress.human(sum(file.st_size for file in files))
    text = f"{path}{by}: {progress.count(len(files), 'program')}, {size}B"
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Diagnostic(
            _SECTION, "compile cache", WARN, f"{text}; cannot be written ({error.strerror})",
            "set XDG_CACHE_HOME to a folder that can; until then every start compiles anew",
        )  # fmt: skip
    if free < _LITTLE:
        text += f"; {progress.human(free)}B left on its disk"
        return Diagnostic(_SECTION, "compile cache", WARN, text, "free some space, or move it")
    return Diagnostic(_SECTION, "compile cache", OK, text)


def _cache_folder() -> pathlib.Path:
    """The user's, or the one that runs take."""
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore
    return pathlib.Path(chosen or compile_cache.directory())
