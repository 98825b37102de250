"""`qmix-jax doctor`: every known conflict, shortages, and the output."""

import json

import pytest
from packaging import requirements
from toys import command_line

import qmix_jax
from qmix_jax.doctor import conflicts, examine, machine, packages, self_test
from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic
from qmix_jax.machine import devices

PLAIN = conflicts.Installation(
    versions={"jax": "0.11.0", "jaxlib": "0.11.0"},
    environ={},
    settings={"jax_enable_x64": False, "jax_default_prng_impl": "threefry2x32"},
    platform="cpu",
    cores=2,
)


def applying(**changes):
    """Name -> check, of the conflicts that apply to a changed installation."""
    checks = list(conflicts.check(PLAIN._replace(**changes)))
    assert checks[-1].name == "all others" and all(check.message for check in checks)
    return {check.name: check for check in checks[:-1]}


def test_no_conflict_applies_to_a_plain_installation():
    assert applying() == {}
    (line,) = conflicts.check(PLAIN)
    assert all(conflict.name in line.message for conflict in conflicts.CONFLICTS)


@pytest.mark.parametrize(
    ("name", "status", "changes"),
    [
        ("jax and gymnax", FAIL, {"versions": {"jax": "0.12.0"}}),
        ("batched QR", OK, {"versions": {"jaxlib": "0.10.2"}}),
        ("CUDA plugin", WARN, {"versions": {"jaxlib": "0.11.1", "jax-cuda12-plugin": "0.11.0"}}),
        ("64-bit numbers", FAIL, {"settings": {"jax_enable_x64": True}}),
        ("debug_nans", WARN, {"settings": {"jax_debug_nans": True}}),
        ("disable_jit", FAIL, {"settings": {"jax_disable_jit": True}}),
        ("matrix precision", WARN, {"settings": {"jax_default_matmul_precision": "high"}}),
        ("random generator", WARN, {"settings": {"jax_default_prng_impl": "rbg"}}),
        ("random sharding", WARN, {"settings": {"jax_threefry_partitionable": False}}),
        ("platform", OK, {"environ": {"JAX_PLATFORMS": "cpu"}}),
        ("fast math", WARN, {"environ": {"XLA_FLAGS": "--a --xla_cpu_enable_fast_math=true"}}),
        ("single thread", WARN, {"environ": {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}}),
        ("core affinity", WARN, {"environ": {"PJRT_NPROC": "4"}}),
    ],
)  # fmt: skip
def test_a_conflict_is_reported_where_it_applies(name, status, changes):
    checks = applying(**changes)
    assert set(checks) == {name}
    assert checks[name].status == status
    assert bool(checks[name].fix) == (status != OK)


def test_every_conflict_is_tested_above():
    (mark,) = test_a_conflict_is_reported_where_it_applies.pytestmark
    names = {conflict.name for conflict in conflicts.CONFLICTS}
    assert {case[0] for case in mark.args[1]} == names


def test_versions_are_compared_with_requirements():
    wanted = requirements.Requirement("jax>=0.10.2,<0.12")
    for installed, status in (({"jax": "0.11.3"}, OK), ({"jax": "0.12.0"}, FAIL), ({}, FAIL)):
        check = packages._check_requirement("jax", installed, wanted)
        assert check.status == status and bool(check.fix) == (status != OK)
    assert all(check.status != FAIL for check in packages.check())


def test_machine_checks_report_devices_and_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_cache_folder", lambda: tmp_path / "cache")
    by_name = {check.name: check for check in machine.check()}
    assert by_name["devices"].message == "2 x cpu"
    cache = by_name["compile cache"]
    assert cache.status == OK and str(tmp_path) in cache.message


def test_shortages_are_warnings_with_a_fix(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(machine, "_cache_folder", lambda: tmp_path / "file" / "cache")
    monkeypatch.setattr(machine, "_quota", lambda: 0.5)
    monkeypatch.setattr(devices, "memory", lambda used: 10**9)
    monkeypatch.setattr(machine, "_NVIDIA", (str(tmp_path),))
    by_name = {check.name: check for check in machine.check()}
    for name in ("cores", "memory", "compile cache", "GPU"):
        assert by_name[name].status == WARN and by_name[name].fix, name


def checks(*statuses):
    return lambda: iter(
        Diagnostic("A", f"check {s}", s, "message", "" if s == OK else "do") for s in statuses
    )


@pytest.mark.parametrize(
    ("statuses", "code", "message"),
    [
        ((OK,), 0, "no problems found"),
        ((OK, WARN), 0, "1 warning"),
        ((WARN, FAIL), 1, "1 check failed"),
    ],
)
def test_only_a_failure_is_exit_code_1(monkeypatch, capsys, statuses, code, message):
    for part in (packages, machine, conflicts):
        monkeypatch.setattr(part, "check", checks())
    monkeypatch.setattr(self_test, "check", checks(*statuses))
    assert command_line.run("doctor") == code
    out = capsys.readouterr().out
    assert message in out and ("fix: do" in out) == (statuses != (OK,))
    assert command_line.run("doctor", "--json") == code
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] == (code == 0)
    assert [check["status"] for check in read["checks"]] == list(statuses)
    assert command_line.run("doctor", "--no-self-test") == 0


def test_a_failed_self_test_is_one_line(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(self_test, "_train", broken)
    (check,) = self_test.check()
    assert (check.status, check.message) == (FAIL, "RuntimeError: no compiler here")


@pytest.mark.slow
def test_doctor_passes_on_this_machine(capsys):
    diagnosis = qmix_jax.run_doctor()
    assert isinstance(diagnosis, examine.Diagnosis) and diagnosis.ok
    by_name = {check.name: check for check in diagnosis.checks if check.section == "Self-test"}
    assert set(by_name) == {"run", "finite", "learns", "deterministic", "files"}
    assert {check.status for check in by_name.values()} == {OK}
    assert "env steps/s" in capsys.readouterr().out
