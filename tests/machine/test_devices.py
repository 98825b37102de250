"""Devices are chosen before the backend starts, and choosing them does not start it."""

import os
import subprocess
import sys
import textwrap

import jax
import pytest

from qmix_jax import config
from qmix_jax.machine import devices


def run(script: str, **environment: str) -> list[str]:
    """Returns the lines that `script` prints in a new interpreter on the CPU."""
    others = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={
            **others,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_PLATFORMS": "cpu",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_prepare_creates_host_devices_without_starting_the_backend():
    lines = run("""
        import jax
        from jax._src import xla_bridge
        from qmix_jax.machine import devices
        print(devices.prepare(4, 3), xla_bridge.backends_are_initialized())
        print(len(devices.local(4, None)), len(devices.local(2, None)), len(devices.local(4, 2)))
        print(xla_bridge.backends_are_initialized(), devices.prepare(2, 2), devices.prepare(4, 3))
        devices.cores = lambda: 64
        print(devices.prepare(5, None))
    """)
    assert lines[:3] == ["None False", "3 2 2", "True None None"]
    assert "running already, with 3 host devices instead of 5" in lines[3]


def test_default_is_one_device_per_member_up_to_the_cores():
    lines = run("""
        import jax
        from qmix_jax.machine import devices
        devices.cores = lambda: 2
        print(devices.prepare(5, None), len(devices.local(5, None)))
    """)
    assert lines == ["None 2"]


def test_devices_set_by_the_environment_are_used_and_reported():
    lines = run(
        """
        from qmix_jax.machine import devices
        print(devices.prepare(1, None))
        print(len(devices.local(8, None)))
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=3",
    )
    assert "xla_force_host_platform_device_count" in lines[0]
    assert lines[1] == "3"


def test_more_devices_than_exist_are_refused_once_the_backend_runs():
    existing = len(jax.local_devices())
    with pytest.raises(config.ConfigError, match=f"population.devices={existing + 7}"):
        devices.local(existing + 9, existing + 7)
    with pytest.raises(config.ConfigError, match=f"JAX has {existing} "):
        devices.prepare(existing + 9, existing + 7)
    assert devices.cores() >= 1
