"""The doctor: every fact where it matters and only there, and a line for whatever is broken."""

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


def matter(**changes):
    """Name -> check, of the facts that matter in changed surroundings."""
    found = list(conflicts.check(PLAIN._replace(**changes)))
    assert found[-1].name == "all others" and all(check.found for check in found)
    return {check.name: check for check in found[:-1]}


def test_nothing_matters_in_plain_surroundings():
    assert matter() == {}
    (line,) = conflicts.check(PLAIN)
    assert all(fact.name in line.found for fact in conflicts.FACTS)


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
def test_a_fact_is_told_where_it_matters(name, status, changes):
    found = matter(**changes)
    assert set(found) == {name}
    assert found[name].status == status
    assert bool(found[name].fix) == (status != OK)


def test_every_fact_is_tried_above():
    (mark,) = test_a_fact_is_told_where_it_matters.pytestmark
    assert {case[0] for case in mark.args[1]} == {fact.name for fact in conflicts.FACTS}


def test_versions_are_held_against_what_is_required():
    wanted = requirements.Requirement("jax>=0.10.2,<0.12")
    for installed, status in (({"jax": "0.11.3"}, OK), ({"jax": "0.12.0"}, FAIL), ({}, FAIL)):
        found = packages._one("jax", installed, wanted)
        assert found.status == status and bool(found.fix) == (status != OK)
    assert all(check.status != FAIL for check in packages.check())


def test_the_machine_is_described(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_cache_folder", lambda: tmp_path / "cache")
    found = {check.name: check for check in machine.check()}
    assert found["devices"].found == "2 x cpu"
    assert found["compile cache"].status == OK and str(tmp_path) in found["compile cache"].found


def test_what_is_short_is_a_warning_with_a_fix(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(machine, "_cache_folder", lambda: tmp_path / "file" / "cache")
    monkeypatch.setattr(machine, "_quota", lambda: 0.5)
    monkeypatch.setattr(devices, "memory", lambda used: 10**9)
    monkeypatch.setattr(machine, "_NVIDIA", (str(tmp_path),))
    found = {check.name: check for check in machine.check()}
    for name in ("cores", "memory", "compile cache", "GPU"):
        assert found[name].status == WARN and found[name].fix, name


def checks(*statuses):
    return lambda: iter(
        Diagnostic("A", f"check {s}", s, "found", "" if s == OK else "do") for s in statuses
    )


@pytest.mark.parametrize(
    ("statuses", "code", "said"),
    [((OK,), 0, "all is well"), ((OK, WARN), 0, "1 warning"), ((WARN, FAIL), 1, "1 check failed")],
)
def test_only_a_failure_is_exit_code_1(monkeypatch, capsys, statuses, code, said):
    for part in (packages, machine, conflicts):
        monkeypatch.setattr(part, "check", checks())
    monkeypatch.setattr(self_test, "check", checks(*statuses))
    assert command_line.run("doctor") == code
    out = capsys.readouterr().out
    assert said in out and ("fix: do" in out) == (statuses != (OK,))
    assert command_line.run("doctor", "--json") == code
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] == (code == 0)
    assert [check["status"] for check in read["checks"]] == list(statuses)
    assert command_line.run("doctor", "--no-self-test") == 0


def test_a_run_that_cannot_be_made_is_one_line(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(self_test, "_train", broken)
    (found,) = self_test.check()
    assert (found.status, found.found) == (FAIL, "RuntimeError: no compiler here")


@pytest.mark.slow
def test_here_nothing_fails(capsys):
    done = qmix_jax.run_doctor()
    assert isinstance(done, examine.Diagnosis) and done.ok
    found = {check.name: check for check in done.checks if check.section == "Self-test"}
    assert set(found) == {"run", "finite", "learns", "repeats itself", "files"}
    assert {check.status for check in found.values()} == {OK}
    assert "env steps/s" in capsys.readouterr().out
