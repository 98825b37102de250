"""A run that was trained: loaded, evaluated and exported, and its files used elsewhere."""

import json
import re
import shutil

import numpy as np
import pytest

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import main
from qmix_jax.deploy import export, policy, trained
from qmix_jax.runtime import sinks

ALONE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import numpy as np
obs, avail_actions = np.load("seen.npz").values()
"""
PACKAGES = ("qmix_jax", "flax", "optax", "chex", "jaxmarl", "pydantic", "hydra")


@pytest.fixture(scope="module")
def exported(run_directory, tmp_path_factory):
    return qmix_jax.export_run(run_directory, tmp_path_factory.mktemp("out") / "export")


@pytest.fixture
def seen():
    """What two agents see in six steps of one environment."""
    rng = np.random.default_rng(0)
    avail = rng.random((6, 2, 3)) < 0.6
    avail[..., 0] |= ~avail.any(axis=-1)
    return rng.random((6, 2, 2), dtype=np.float32) * [1, 5], avail


def play(own, obs, avail):
    state, actions = own.initial_state(), []
    for one in zip(obs, avail, strict=True):
        chosen, state = own.act(*one, state)
        actions.append(chosen)
    return np.stack(actions)


def test_a_policy_is_loaded_without_its_environment(run_directory, run_python):
    code = (
        "import sys, numpy, qmix_jax\n"
        f"policy = qmix_jax.load_policy({str(run_directory)!r})\n"
        "state = policy.agent('b').initial_state()\n"
        "print(*policy.agent_names, policy.agent('b').act(numpy.ones(2), None, state)[0])\n"
        "assert not {'toys', 'jaxmarl', 'hydra'} & set(sys.modules)"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"a b [012]\n", result.stdout)


READERS = ("load_run", "load_policy", "evaluate_run", "resume", "rerun", "render_run", "report")


@pytest.mark.parametrize("name", READERS)
def test_a_run_of_an_older_version_is_refused_in_one_line(name, run_directory, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run_directory, old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["layout"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(config.ConfigError) as error:
        getattr(qmix_jax, name)(old)
    assert "manifest.json' is of layout 1, and this version reads layout 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_members_and_parameters_can_be_chosen(run_directory):
    best, final = trained.read(run_directory, "best"), trained.read(run_directory, "final")
    rows = sinks.read_metrics(run_directory / "metrics.csv")
    for member in range(2):
        own = rows["eval/return"][(rows["seed"] == member) & (rows["kind"] == "eval")]
        assert best.scores["return"][member] == own.max()
        assert final.scores["return"][member] == own[-1]
    assert best.member("best") == np.argmax(best.scores["return"])
    about = qmix_jax.load_policy(run_directory, member=1, parameters="final").about["run"]
    assert (about["member"], about["seed"], about["parameters"]) == (1, 1, "final")
    with pytest.raises(config.ConfigError, match=r"parameters='last'.*allowed: best, final"):
        qmix_jax.load_policy(run_directory, parameters="last")


def test_what_holds_no_policy_is_one_clear_error(run_directory, exported, tmp_path):
    with pytest.raises(config.ConfigError, match=r"config\.yaml.*give the config\.yaml of a run"):
        qmix_jax.load_policy(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_directory, unfinished)
    (unfinished / "parameters_final.npz").unlink()
    with pytest.raises(config.ConfigError, match="give the directory of a run that has ended"):
        qmix_jax.load_policy(unfinished)
    for name in policy.FILES:
        broken = tmp_path / name.replace(".", "_")
        shutil.copytree(exported, broken)
        (broken / name).write_bytes((exported / name).read_bytes()[:1000])
        with pytest.raises(
            config.ConfigError, match=r"cannot read .* give a run directory"
        ) as error:
            qmix_jax.load_policy(broken / name)
        assert "\n" not in str(error.value)


def test_exported_files_act_as_the_run_does(run_directory, exported, seen):
    expected = play(qmix_jax.load_policy(run_directory), *seen)
    assert len(np.unique(expected)) > 1
    for path in (exported, *(exported / name for name in policy.FILES)):
        own = qmix_jax.load_policy(path)
        np.testing.assert_array_equal(play(own, *seen), expected)
        np.testing.assert_array_equal(
            play(own.agent("b"), *(x[:, 1] for x in seen)), expected[:, 1]
        )
        assert own.about["run"]["member"] == trained.read(run_directory).member("best")
        assert own.about["run"]["config"]["env"]["name"] == "toys.counting"


@pytest.mark.parametrize(
    ("heading", "refused", "obs"),
    [("stablehlo", PACKAGES, "obs[:1]"), ("NumPy", (*PACKAGES, "jax", "jaxlib"), "obs[0]")],
)
def test_the_exported_readme_is_right_where_this_package_is_not(
    heading, refused, obs, run_directory, exported, seen, run_python_in, tmp_path
):
    folder = tmp_path / "elsewhere"
    shutil.copytree(exported, folder)
    np.savez(folder / "seen.npz", *seen)
    section = (folder / "README.md").read_text().partition(heading)[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    cut = f"obs, avail_actions = {obs}, {obs.replace('obs', 'avail_actions')}\n"
    script = f"{ALONE.format(refused=refused)}{cut}{code}print(*np.ravel(actions))"
    (folder / "use.py").write_text(script)
    result = run_python_in(folder, "use.py")
    assert result.returncode == 0, result.stderr
    expected = play(qmix_jax.load_policy(run_directory), *(x[:1] for x in seen))[0]
    assert result.stdout.split() == [str(action) for action in expected]


def test_an_export_says_what_it_takes_and_where_it_comes_from(run_directory, exported):
    about = json.loads((exported / "metadata.json").read_text())
    assert about["interface"]["state"]["carry"] == [[2, 8], "float32"]
    assert about["interface"]["n_actions"] == [3, 3] and about["platforms"] == [
        "cpu",
        "cuda",
        "tpu",
    ]
    manifest = json.loads((run_directory / "manifest.json").read_text())
    assert about["run"]["config"] == manifest["config"] and about["run"]["git"] == manifest["git"]
    readme = (exported / "README.md").read_text()
    for text in (
        "`obs` | b, 2, 2 | float32",
        "`a` | 2 | 0 to 2",
        "flatbuffers",
        "for cpu, cuda, tpu",
    ):
        assert text in readme


def test_an_export_replaces_an_earlier_one_and_nothing_else(run_directory, tmp_path):
    folder = tmp_path / "export"
    qmix_jax.export_run(run_directory, folder, formats=("stablehlo",), platforms=("cpu",))
    qmix_jax.export_run(run_directory, folder, formats=("numpy",))
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "metadata.json", "runner.py", "weights.npz"}
    assert "stablehlo" not in (folder / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(config.ConfigError, match="holds more than an earlier export"):
        qmix_jax.export_run(run_directory, tmp_path, formats=("numpy",))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_cannot_be_exported_is_refused_first(run_directory, tmp_path, monkeypatch):
    for arguments, message in (
        ({"formats": ("onnx",)}, "--format 'onnx': .*allowed: stablehlo, numpy"),
        ({"platforms": ("gpu",)}, "--platforms 'gpu': .*allowed: cpu, cuda, rocm, tpu"),
        ({"formats": ()}, "--format is empty"),
        ({"member": 2}, "member=2, but the run has 2"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            qmix_jax.export_run(run_directory, tmp_path / "export", **arguments)
    monkeypatch.setattr(export.export.Exported, "serialize", _without_flatbuffers)
    with pytest.raises(config.ConfigError, match=r"need flatbuffers: pip install.*--format numpy"):
        qmix_jax.export_run(run_directory, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def _without_flatbuffers(self):
    raise ImportError("no flatbuffers")


def test_evaluation_of_the_last_episodes_is_the_runs_last_row(run_directory):
    done = qmix_jax.evaluate_run(run_directory, parameters="final", seed="last")
    rows = sinks.read_metrics(run_directory / "metrics.csv")
    last = (rows["kind"] == "eval") & (rows["update"] == rows["update"].max())
    assert done.episodes == 6 and done.members == (0, 1) and done.seeds == ()
    for name, values in done.metrics.items():
        np.testing.assert_array_equal(values[:, 0], np.float32(rows[f"eval/{name}"][last]))


def test_evaluation_plays_other_episodes_by_seed_and_in_other_scenarios(run_directory):
    done = qmix_jax.evaluate_run(run_directory, episodes=16, seed=3, seeds=2, members="best")
    again = qmix_jax.evaluate_run(run_directory, episodes=16, seed=4, members=done.members)
    assert done.metrics["return"].shape == (1, 2) and done.seeds == (3, 4)
    np.testing.assert_array_equal(done.metrics["return"][:, 1:], again.metrics["return"])
    assert len(np.unique(done.metrics["return"])) == 2
    short = qmix_jax.evaluate_run(run_directory, values={"env.options.limit": 1})
    assert (short.metrics["length"] == 1).all()


def test_another_environment_must_have_the_same_shapes(run_directory):
    for values, message in (
        ({"env": {"name": "toys.image"}}, "env: only keys of env"),
        ({"gamma": 1}, "gamma: only keys of env"),
        ({"env.options.limt": 1}, "unknown key 'env.options.limt'; did you mean 'limit'"),
        (
            {"env.name": "matrix", "env.options": {"game": "Q3"}},
            r"observation shapes of .*trained on counting: \(2,\) each; choose a scenario of equal",
        ),
    ):
        with pytest.raises(config.ConfigError, match=message):
            qmix_jax.evaluate_run(run_directory, values=values)
    for arguments, message in (
        ({"seed": -1}, "seed=-1"),
        ({"seeds": 0}, "seeds=0"),
        ({"seed": "last", "seeds": 2}, "leave out seeds"),
        ({"members": ()}, "members is empty"),
        ({"members": (0, 5)}, "member=5"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            qmix_jax.evaluate_run(run_directory, **arguments)


def test_commands(run_directory, tmp_path, capsys):
    directory, out = str(run_directory), tmp_path / "score.json"
    arguments = [directory, "env.options.limit=4", "--members", "0,1", "--seed", "7"]
    assert main.main(["evaluate", *arguments, "--json", "--out", str(out)]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and out.read_text() == line
    assert json.loads(line)["members"] == [0, 1] and json.loads(line)["seeds"] == [7]
    assert main.main(["evaluate", directory, "--parameters", "final", "--episodes", "4"]) == 0
    assert "counting, final parameters: 4 episodes of 2 member(s)" in capsys.readouterr().out
    folder = tmp_path / "export"
    command = ["export", directory, "--out", str(folder), "--format", "numpy", "--member", "1"]
    assert main.main(command) == 0
    assert "weights.npz" in capsys.readouterr().out
    assert qmix_jax.load_policy(folder).about["run"]["member"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "the following arguments are required: DIR"),
        (["evaluate", "nowhere"], "cannot read 'nowhere/config.yaml'"),
        (["evaluate", "x", "y"], "'y' is neither DIR, which comes first, nor key=value"),
        (["evaluate", "x", "--seed", "first"], "--seed: invalid number or 'last' value: 'first'"),
        (["export", "x", "--format", "onnx"], "allowed: stablehlo, numpy"),
        (["export", "x", "y"], "unrecognized arguments: y"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
