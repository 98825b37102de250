"""Settings of all tests: two host devices and fast compilation. They are set before JAX starts its
backend and also apply to processes started by tests."""

import atexit
import collections
import functools
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import jax
import pytest
from matplotlib import figure
from toys import members

from qmix_jax import population
from qmix_jax.console import learning_curves
from qmix_jax.machine import signals

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Never use the user's cache. Workers of xdist inherit the settings of their parent process.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="qmix_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# Processes share compiled programs; small ones compile faster than they load.
for name, value in {
    "jax_compilation_cache_dir": os.path.join(os.environ["XDG_CACHE_HOME"], "tests"),
    "jax_persistent_cache_min_compile_time_secs": 0.05,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)
# Tests run compiled code a few times only, so compile with the least effort. The old emitters take
# a third of the time; jax 0.11 removed them.
EFFORT = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    EFFORT.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join((*EFFORT, os.environ.get("XLA_FLAGS", "")))
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 2)
jax.devices()  # otherwise the first run that needs one device sets it


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files with most slow tests first, so that no worker ends with one of them."""
    slow = collections.Counter(
        item.path for item in items if item.get_closest_marker("slow") is not None
    )
    items.sort(key=lambda item: -slow[item.path])  # stable: files stay together


def pytest_collection_finish() -> None:
    """Collects garbage rarely: tracing allocates many objects but few cycles, and the default
    thresholds cost a sixth of the suite. Imported modules stay, so they are not scanned again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees compiled programs once there are many: each maps its code into the process, and XLA
    does not survive Linux's limit of 65,530 maps. At a tenth of that a process takes 3 GB.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 6_500:
        members.forget()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _machine_code_without_effort(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lowers the compile effort of training programs, except in files that compare their results
    with those of other processes.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("as_users") is None:
            least = {"xla_backend_optimization_level": 0}
            patch.setattr(population, "compiler_options", lambda platform: least)
        yield


@pytest.fixture(scope="module")
def empty_pictures() -> Iterator[None]:
    """Replaces learning curves with an empty figure, in files that train many runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_curves, "figure", lambda metrics, title="": figure.Figure((1, 1)))
        yield


@pytest.fixture(autouse=True)
def _no_signal_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets the last signal, which sets the exit code and may come from another test."""
    monkeypatch.setattr(signals, "_last", signal.SIGINT)


@pytest.fixture
def environment() -> dict[str, str]:
    """Environment variables of processes that tests start: this checkout, on the CPU."""
    return _environment()


def _environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


@pytest.fixture(scope="session")
def run_python_in() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python <arguments>` in a new process, in a folder."""

    def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def run_python(
    tmp_path: pathlib.Path, run_python_in: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python <arguments>` in a new process, in an empty folder."""
    return functools.partial(run_python_in, tmp_path)
