"""Compiled programs kept on disk: a second start of the same configuration compiles nothing."""

import hashlib
import os
import pathlib
import platform

import jax
from jax.experimental.compilation_cache import compilation_cache

_MAX_BYTES = 2**30


def directory() -> pathlib.Path:
    """`$XDG_CACHE_HOME/qmix_jax` (or `~/.cache/qmix_jax`), a folder per kind of processor: code
    compiled for one may crash another that shares the home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    features = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return pathlib.Path(base, "qmix_jax", "xla", features)


def enable() -> str | None:
    """Turns JAX's persistent compilation cache on, unless the user has chosen a folder for it.

    Entries that have not been used for longest go when it grows beyond 1 GiB.

    Returns:
      A line for the user where the folder cannot be written and there is no cache; None otherwise.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore
        return None
    path = directory()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"compile cache: off, {path} cannot be written ({error.strerror})"
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # What JAX found at its first compilation, perhaps before this call, it keeps.
    compilation_cache.reset_cache()
    return None


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    described = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join(sorted(described))
