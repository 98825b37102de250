"""The compile cache on disk: a second start of the same configuration compiles nothing."""

import hashlib
import os
import pathlib
import platform

import jax
from jax.experimental.compilation_cache import compilation_cache

_MAX_BYTES = 2**30


def directory() -> pathlib.Path:
    """Returns the folder in `$XDG_CACHE_HOME/qmix_jax` (or `~/.cache/qmix_jax`) for this kind of
    processor: machines may share a home folder, and code compiled for another kind may crash.
    """
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return pathlib.Path(base, "qmix_jax", "xla", processor)


def enable() -> str | None:
    """Turns on JAX's persistent compilation cache, unless the user has set a folder for it.

    Beyond 1 GiB the least recently used entries are deleted.

    Returns:
      A message if the folder cannot be written, so that the cache is off; None otherwise.
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
    # JAX reads these settings at its first compilation, which may have been before this call.
    compilation_cache.reset_cache()
    return None


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join(sorted(features))
