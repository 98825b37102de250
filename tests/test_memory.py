"""Memory of members, the number that fits, and slices of a population."""

import json
import time

import jax
import numpy as np
import pytest
from toys import members

from qmix_jax import api, config, memory, population, program
from qmix_jax.cli import composition
from qmix_jax.runs import jobs, storage
from qmix_jax.training import programs

pytestmark = pytest.mark.usefixtures("empty_pictures")


def test_parts_are_the_bytes_of_the_arrays():
    cfg = members.load()
    built = program.build(cfg)
    state = jax.jit(built.step.init)(np.int32(0))
    parts = memory.parts(state)
    arrays = members.leaves(state)
    assert sum(parts.values()) == sum(array.nbytes for array in arrays)
    assert parts["replay"] == sum(leaf.nbytes for leaf in members.leaves(state.replay))
    assert parts["parameters"] == parts["target parameters"] > 0
    assert memory.parts(jax.eval_shape(built.step.init, 0)) == parts


def test_fit_by_hand():
    needed = memory.MemoryEstimate({"replay": 90, "parameters": 10}, temporaries=50)
    assert needed.persistent == 100
    assert needed.fit(1_000, running=2) == 9
    assert needed.fit(1_000, running=20) == 0
    assert needed.fit(149, running=1) == 0 and needed.fit(150, running=1) == 1
    assert needed.fit(749, running=None) == 4 and needed.fit(750, running=None) == 5


NO_COPIES = {"checkpoint": {"enabled": False}}
"""Without checkpoints: memory is the state of members and the temporaries of programs."""


def needed():
    return members.compiled(members.load())[0].memory


@pytest.mark.slow
def test_slices_do_not_change_results(tmp_path, capsys):
    """With batched members; `test_resume.py` has slices of sequential members."""
    member = needed()
    settings = {"population": {"batching": "vmap", "devices": 1}, **NO_COPIES}
    jobs = [members.load(seeds=2, **settings), members.load(seed=7, seeds=2, **settings)]
    together = api.train_many([api.Job(cfg, tmp_path / f"a{i}") for i, cfg in enumerate(jobs)])
    capsys.readouterr()
    limit = int(3.4 * (member.persistent + member.temporaries))
    small = {**settings, "population": {**settings["population"], "memory": limit}}
    sliced = api.train_many(
        [
            api.Job(members.load(seeds=2, **small), tmp_path / "b0"),
            api.Job(members.load(seed=7, seeds=2, **small), tmp_path / "b1"),
        ]
    )
    assert "memory: 4 members in 2 slices of 3" in capsys.readouterr().out
    for expected, result in zip(together, sliced, strict=True):
        np.testing.assert_array_equal(expected.metrics["seed"], result.metrics["seed"])
        np.testing.assert_array_equal(expected.metrics["update"], result.metrics["update"])
        np.testing.assert_array_equal(expected.metrics["kind"], result.metrics["kind"])
        for a, b in zip(
            members.leaves(expected.parameters), members.leaves(result.parameters), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    rows = (sliced[1].directory / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len(storage.read_metrics(sliced[1].directory / "metrics.csv")["seed"])


def test_too_little_memory_is_refused_before_compiling(tmp_path, monkeypatch):
    monkeypatch.setattr(population, "compile_programs", None)
    cfg = members.load(population={"memory": "2KB"})
    with pytest.raises(config.ConfigError, match=r"memory: a member .*2kB are available for one"):
        api.train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_members_that_do_not_fit_are_refused_without_slices(tmp_path, monkeypatch):
    limit = int(2.5 * needed().persistent)
    monkeypatch.setattr(population, "compile_programs", None)
    settings = {"batching": "map", "devices": 1, "memory": limit, "slices": False}
    jobs = [
        api.Job(members.load(seeds=n, population=settings), tmp_path / f"run{n}") for n in (1, 2)
    ]
    with pytest.raises(config.ConfigError, match=r"for 3 \(population.slices=false\); lower"):
        api.train_many(jobs, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_program_too_large_after_compiling_is_refused(tmp_path):
    member = needed()
    settings = {
        "batching": "map",
        "devices": 1,
        "memory": member.persistent + member.temporaries // 2,
    }
    job = api.Job(members.load(seeds=1, population=settings), tmp_path / "run")
    with pytest.raises(config.ConfigError, match=r"memory: a member needs"):
        api.train_many([job], tmp_path)
    (entry,) = json.loads((tmp_path / "index.json").read_text())["jobs"]
    assert entry["status"] == "failed" and "memory: a member needs" in entry["failures"][0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("24GiB", 24 * 2**30), ("1.5 MB", 1_500_000), (1e6, 10**6), ("12", 12)]
)
def test_bytes_may_have_units(text, n_bytes):
    assert members.load(population={"memory": text}).population.memory == n_bytes


@pytest.mark.parametrize("text", ["24 parsecs", "GiB", 0, -1, "1e3GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(config.ConfigError, match=r"population.memory="):
        members.load(population={"memory": text})


@pytest.mark.slow
def test_plan_estimates_memory(capsys):
    cfg = members.load(seeds=4, population={"batching": "map", "devices": 2}, **NO_COPIES)
    member = needed()
    (plan,) = api.plan_runs([cfg], memory=10**9)
    assert isinstance(plan, programs.Footprint)
    assert plan.memory.parts == member.parts and plan.together == 4
    printed = capsys.readouterr().out
    assert "1 job in 1 compiled program" in printed
    assert "4 members at a time, 1 slice" in printed
    (plan,) = api.plan_runs([cfg], memory=3 * member.persistent + 2 * member.temporaries)
    assert plan.together == 3
    (plan,) = api.plan_runs([cfg], memory=member.persistent)
    assert plan.together == 0


@pytest.mark.slow
@pytest.mark.parametrize(("replay", "share"), [("running", 1.0), ("never", 0.8)])
def test_checkpoints_need_a_second_copy_of_members(replay, share, capsys):
    cfg = members.load(seeds=4, population={"devices": 2}, checkpoint={"replay": replay})
    (plan,) = api.plan_runs([cfg], memory=10**9)
    member = plan.memory
    without = member.parts["replay"] if replay == "never" else 0
    assert member.copies == member.persistent - without
    assert member.copies / member.persistent == pytest.approx(share, abs=0.01)
    assert "for checkpoints" in capsys.readouterr().out
    limit = 3 * (member.persistent + member.copies) + 2 * member.temporaries
    assert (member.fit(limit, running=2), member.fit(limit - 1, running=2)) == (3, 2)


PLANNED = (("two_step", "vmap"), ("smax_3m", "map"))
TOGETHER = 4


@pytest.fixture
def analyses(monkeypatch):
    """Program -> the compiler's memory analysis, for the last compiled population."""
    analyses = {}
    compile_all = population._compile

    def compile_and_analyse(*arguments):
        compiled, seconds = compile_all(*arguments)
        analyses.update({name: program.memory_analysis() for name, program in compiled.items()})
        return compiled, seconds

    monkeypatch.setattr(population, "_compile", compile_and_analyse)
    return analyses


def measured_bytes(analyses, rounds):
    """Peak bytes of all members on one device, while the largest program runs one of the rounds.

    The arguments of `train` stay in memory in every round; `init` outputs one of them.
    """
    state = rounds * analyses["train"].argument_size_in_bytes
    outputs = {name: a.output_size_in_bytes - a.alias_size_in_bytes for name, a in analyses.items()}
    outputs["init"] = 0
    return state + max(outputs[name] + a.temp_size_in_bytes for name, a in analyses.items())


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "batching"), PLANNED)
def test_the_plan_agrees_with_the_compilers_analysis(experiment, batching, analyses):
    """Within 15 %, at the sizes of the experiments: the plan compiles one member, the test four.
    Nothing runs.
    """
    overrides = (
        f"experiment={experiment}",
        f"seeds={TOGETHER}",
        "population.devices=1",
        "checkpoint.enabled=false",
    )
    cfg = config.load(composition.compose(*overrides))
    group = jobs.Group([jobs.Job(cfg)], program.build(cfg))
    needed = programs.footprint(group, limit=10**15).memory
    hparams = [program.hparams(cfg.hparams)] * TOGETHER
    running = 1 if batching == "map" else TOGETHER
    layout = population.make_layout(TOGETHER, jax.devices()[:1], batching)
    compiled = population.compile_programs(
        group.program, layout, group.seeds, hparams, cfg.precision, time.perf_counter
    )
    assert compiled.memory.parts == needed.parts, "exact: shapes alone"
    planned = TOGETHER * needed.persistent + running * needed.temporaries
    assert needed.fit(planned, running if batching == "map" else None) == TOGETHER
    measured = measured_bytes(analyses, layout.rounds)
    assert planned == pytest.approx(measured, rel=0.15)
