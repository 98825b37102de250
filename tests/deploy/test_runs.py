"""A trained run is loaded, evaluated and exported, and its files are used elsewhere."""

import dataclasses
import functools
import json
import re
import shutil

import numpy as np
import pytest

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import main
from qmix_jax.deploy import agreement, export, policy, trained
from qmix_jax.runs import metadata, storage
from qmix_jax.types import Box, EnvSpec

WITHOUT_PACKAGES = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import numpy as np
obs, avail_actions = np.load("inputs.npz").values()
"""
PACKAGES = ("qmix_jax", "flax", "optax", "chex", "jaxmarl", "pydantic", "hydra")


@pytest.fixture(scope="module")
def exported(run_directory, tmp_path_factory):
    return qmix_jax.export_run(run_directory, tmp_path_factory.mktemp("out") / "export")


@pytest.fixture
def inputs():
    """Observations and masks of two agents in six steps of one environment."""
    rng = np.random.default_rng(0)
    avail = rng.random((6, 2, 3)) < 0.6
    avail[..., 0] |= ~avail.any(axis=-1)
    return rng.random((6, 2, 2), dtype=np.float32) * [1, 5], avail


def play(team, obs, avail):
    state, steps = team.initial_state(), []
    for obs_t, avail_t in zip(obs, avail, strict=True):
        actions, state = team.act(obs_t, avail_t, state)
        steps.append(actions)
    return np.stack(steps)


@pytest.mark.slow
def test_load_policy_does_not_import_the_environment(run_directory, run_python):
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
def test_runs_of_older_versions_are_refused_in_one_line(name, run_directory, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run_directory, old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["layout"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(config.ConfigError) as error:
        getattr(qmix_jax, name)(old)
    assert "manifest.json' has layout 1, but this version reads layout 2" in str(error.value)
    assert "\n" not in str(error.value)


def copied(directory, folder, change_manifest=lambda manifest: None, **values):
    """A copy of a run with changed keys of its configuration and a changed manifest."""
    shutil.copytree(directory, folder)
    mapping = metadata.read_config(folder / "config.yaml")
    for path, value in values.items():
        *parents, leaf = path.split(".")
        functools.reduce(dict.__getitem__, parents, mapping)[leaf] = value
    metadata.write_config(folder / "config.yaml", mapping)
    manifest = json.loads((folder / "manifest.json").read_text())
    change_manifest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_manifest_restores_the_spec(run_directory, tmp_path):
    spec = EnvSpec(
        name="rich",
        agent_names=("a", "b"),
        agent_groups=(0, 0),
        actions=Box((3, 2), low=-2.0, high=4.0),
        obs_shapes=((2,), (2,)),
        obs_shape=(2,),
        state_size=2,
        max_steps=5,
        best_metrics=(("distance", "min"),),
        scored_agents=(1,),
        obs_blocks=(("x", 1), ("y", 1)),
        agent_state=np.array([[0], [1]], np.int32),
        obs_bounds=(0.0, 1.0),
        neighbours=np.array([[False, True], [True, False]]),
        n_states=None,
    )
    written = storage.plain(dataclasses.asdict(spec))
    copy = copied(run_directory, tmp_path / "rich", lambda manifest: manifest.update(spec=written))
    restored = trained.read(copy).spec
    for field in dataclasses.fields(spec):
        expected, value = (getattr(record, field.name) for record in (spec, restored))
        assert type(value) is type(expected), field.name
        np.testing.assert_array_equal(value, expected, strict=isinstance(expected, np.ndarray))


def test_mixers_and_environments_need_not_be_importable(run_directory, tmp_path, inputs):
    values = {"algo.mixer": {"name": "nowhere.mixer", "options": {"x": 1}}}
    expected = play(qmix_jax.load_policy(run_directory), *inputs)
    no_mixer = copied(run_directory, tmp_path / "no_mixer", **values)
    scores = qmix_jax.evaluate_run(no_mixer)
    np.testing.assert_array_equal(
        scores.metrics["return"], qmix_jax.evaluate_run(run_directory).metrics["return"]
    )
    no_env = copied(no_mixer, tmp_path / "no_env", **{"env.name": "nowhere.env"})
    np.testing.assert_array_equal(play(qmix_jax.load_policy(no_env), *inputs), expected)
    with pytest.raises(config.ConfigError, match=r"env\.name='nowhere\.env': no module"):
        qmix_jax.evaluate_run(no_env)
    value = {"algo.algorithm": "nowhere.algorithm"}
    with pytest.raises(config.ConfigError, match=r"no module 'nowhere' can be imported"):
        qmix_jax.load_policy(copied(no_mixer, tmp_path / "no_algorithm", **value))


def test_the_best_member_follows_best_metrics(run_directory, tmp_path):
    def change(manifest):
        manifest["spec"]["best_metrics"] = [["win_rate", "max"], ["return", "min"]]

    copy = copied(run_directory, tmp_path / "min", change)
    best = trained.read(copy)
    rows = storage.read_metrics(copy / "metrics.csv")
    for member in range(2):
        returns = rows["eval/return"][(rows["seed"] == member) & (rows["kind"] == "eval")]
        assert best.scores["return"][member] == returns.min()
    assert best.member("best") == np.argmin(best.scores["return"])


def test_members_and_parameters_can_be_chosen(run_directory):
    best, final = trained.read(run_directory, "best"), trained.read(run_directory, "final")
    rows = storage.read_metrics(run_directory / "metrics.csv")
    for member in range(2):
        returns = rows["eval/return"][(rows["seed"] == member) & (rows["kind"] == "eval")]
        assert best.scores["return"][member] == returns.max()
        assert final.scores["return"][member] == returns[-1]
    assert best.member("best") == np.argmax(best.scores["return"])
    about = qmix_jax.load_policy(run_directory, member=1, parameters="final").about["run"]
    assert (about["member"], about["seed"], about["parameters"]) == (1, 1, "final")
    with pytest.raises(config.ConfigError, match=r"parameters='last'.*allowed: best, final"):
        qmix_jax.load_policy(run_directory, parameters="last")


def test_paths_without_a_policy_are_one_line_errors(run_directory, exported, tmp_path):
    with pytest.raises(config.ConfigError, match=r"config\.yaml.*give a run directory"):
        qmix_jax.load_policy(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_directory, unfinished)
    (unfinished / "parameters_final.npz").unlink()
    with pytest.raises(config.ConfigError, match="give the directory of a finished run"):
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


@pytest.mark.parametrize("name", policy.FILES)
@pytest.mark.parametrize("number", [None, 1, 3])
def test_exports_of_other_formats_are_refused(name, number, exported, tmp_path):
    def change(text):
        about = json.loads(text)
        about.pop("format") if number is None else about.update(format=number)
        return json.dumps(about).encode()

    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    (folder / "metadata.json").write_bytes(change((folder / "metadata.json").read_text()))
    with np.load(folder / "weights.npz") as archive:
        arrays = dict(archive)
    arrays["metadata"] = np.frombuffer(change(arrays["metadata"].tobytes()), np.uint8)
    np.savez(folder / "weights.npz", **arrays)
    expected = rf"has export format {number or 1}, .* reads format 2; export the run again"
    with pytest.raises(config.ConfigError, match=expected) as error:
        qmix_jax.load_policy(folder / name)
    assert "\n" not in str(error.value)


def test_exported_files_act_as_the_run_does(run_directory, exported, inputs):
    expected = play(qmix_jax.load_policy(run_directory), *inputs)
    assert len(np.unique(expected)) > 1
    for path in (exported, *(exported / name for name in policy.FILES)):
        team = qmix_jax.load_policy(path)
        np.testing.assert_array_equal(play(team, *inputs), expected)
        np.testing.assert_array_equal(
            play(team.agent("b"), *(x[:, 1] for x in inputs)), expected[:, 1]
        )
        assert team.about["run"]["member"] == trained.read(run_directory).member("best")
        assert team.about["run"]["config"]["env"]["name"] == "toys.counting"


@pytest.mark.parametrize(
    ("heading", "refused", "obs"),
    [("JAX", PACKAGES, "obs[:1]"), ("NumPy", (*PACKAGES, "jax", "jaxlib"), "obs[0]")],
)
def test_the_code_of_the_exported_readme_runs_without_this_package(
    heading, refused, obs, run_directory, exported, inputs, run_python_in, tmp_path
):
    folder = tmp_path / "elsewhere"
    shutil.copytree(exported, folder)
    np.savez(folder / "inputs.npz", *inputs)
    section = (folder / "README.md").read_text().partition(f"## Run with {heading}")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    select = f"obs, avail_actions = {obs}, {obs.replace('obs', 'avail_actions')}\n"
    script = f"{WITHOUT_PACKAGES.format(refused=refused)}{select}{code}print(*np.ravel(actions))"
    (folder / "use.py").write_text(script)
    result = run_python_in(folder, "use.py")
    assert result.returncode == 0, result.stderr
    expected = play(qmix_jax.load_policy(run_directory), *(x[:1] for x in inputs))[0]
    assert result.stdout.split() == [str(action) for action in expected]


def test_an_export_states_its_interface_and_origin(run_directory, exported):
    about = json.loads((exported / "metadata.json").read_text())
    assert about["interface"]["state"]["carry"] == [[2, 8], "float32"]
    assert about["interface"]["actions"] == {"kind": "discrete", "sizes": [3, 3]}
    assert "key" not in about["interface"]["state"] and about["interface"]["head"] == "argmax"
    assert about["platforms"] == ["cpu", "cuda", "tpu"] and about["format"] == 2
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


def test_an_export_replaces_an_earlier_one_but_no_other_files(run_directory, tmp_path):
    folder = tmp_path / "export"
    qmix_jax.export_run(run_directory, folder, formats=("stablehlo",), platforms=("cpu",))
    qmix_jax.export_run(run_directory, folder, formats=("numpy",))
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "metadata.json", "runner.py", "weights.npz"}
    assert "stablehlo" not in (folder / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(config.ConfigError, match="has files that are not from an export"):
        qmix_jax.export_run(run_directory, tmp_path, formats=("numpy",))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_invalid_exports_are_refused_before_writing(run_directory, tmp_path, monkeypatch):
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


def test_another_platform_can_be_exported_for(run_directory, tmp_path):
    folder = qmix_jax.export_run(
        run_directory, tmp_path / "export", formats=("stablehlo",), platforms=("tpu",)
    )
    with pytest.raises(config.ConfigError, match="is for tpu, and this is cpu; export it with"):
        qmix_jax.load_policy(folder)


def action_probabilities(directory):
    """Each agent's probabilities of its 2 and 3 actions in the one-step game."""
    run = trained.read(directory)
    state = qmix_jax.load_policy(directory).initial_state(1).arrays
    _, head, _ = policy.make_step(run)(run.member_params(run.member("best")), *GAME, state)
    logits = np.where(GAME[1], head, -np.inf)[0]
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


GAME = np.ones((1, 2, 5), np.float32), np.array([[[True, True, False], [True] * 3]])


@pytest.mark.slow
def test_a_policy_that_samples_is_evaluated_as_in_training(sampling_directory):
    result = qmix_jax.evaluate_run(sampling_directory, parameters="final", seed="last")
    rows = storage.read_metrics(sampling_directory / "metrics.csv")
    last = (rows["kind"] == "eval") & (rows["update"] == rows["update"].max())
    np.testing.assert_array_equal(
        result.metrics["return"][:, 0], np.float32(rows["eval/return"][last])
    )


def test_a_policy_that_samples_acts_the_same_everywhere(sampling_directory, tmp_path):
    folder = qmix_jax.export_run(sampling_directory, tmp_path / "export", platforms=("cpu",))
    team = qmix_jax.load_policy(sampling_directory)
    assert team.about["interface"]["state"]["key"] == [[2], "uint32"]
    n = 4000
    obs, avail = (np.repeat(x, n, axis=0) for x in GAME)
    actions = {}
    for name, path in {
        "run": sampling_directory,
        "stablehlo": folder / "policy.stablehlo",
        "numpy": folder / "weights.npz",
    }.items():
        team = qmix_jax.load_policy(path)
        actions[name], _ = team.act(obs, avail, team.initial_state(n, seed=9))
    np.testing.assert_array_equal(actions["stablehlo"], actions["run"])
    assert (actions["numpy"] != actions["run"]).any()
    probabilities = action_probabilities(sampling_directory)
    for drawn in actions.values():
        counts = np.stack([np.sum(drawn == a, axis=0) for a in range(3)], axis=-1)
        expected = n * probabilities
        used = GAME[1][0]
        assert expected[used].min() > 5 and counts[0, 2] == 0
        statistic = np.sum((counts - expected)[used] ** 2 / expected[used])
        assert statistic < 25, "chi-square with 3 degrees of freedom"
    score = qmix_jax.evaluate_run(sampling_directory, episodes=n, members="best")
    payoff = np.array([[0, 1, 5], [2, 7, 3]])
    first, second = probabilities[0, :2], probabilities[1]
    mean = first @ payoff @ second
    error = np.sqrt((first @ payoff**2 @ second - mean**2) / n)
    assert abs(score.metrics["return"][0, 0] - mean) < 5 * error


def test_the_code_in_the_readme_of_a_policy_that_samples_runs(
    sampling_directory, tmp_path, monkeypatch
):
    folder = qmix_jax.export_run(sampling_directory, tmp_path / "export", platforms=("cpu",))
    text = (folder / "README.md").read_text()
    assert "sampling its actions" in text
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    drawn = []
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        obs, avail = (x if "policy.call" in code else x[0] for x in GAME)
        names = {"obs": obs, "avail_actions": avail}
        exec(code, names)
        drawn.append(np.ravel(names["actions"]))
    team = qmix_jax.load_policy(sampling_directory)
    expected, _ = team.act(*GAME, team.initial_state(1, seed=0))
    np.testing.assert_array_equal(drawn[0], expected[0])
    assert len(drawn) == 2 and drawn[1].shape == (2,)


REFUSED = {
    "the algorithm states no head": (
        {"algo.options.head": "none"},
        "states no `Algorithm.head`",
    ),
    "the algorithm states a wrong head": (
        {"algo.options": {"head": "argmax", "act": "argmin"}},
        r"weights\.npz does not act as the run does: \d+ of its 128 actions differ",
    ),
    "another temperature": (
        {"algo.options.temperature": 0.25},
        "does not sample from the softmax of its head",
    ),
    "a user-defined agent": (
        {"agent.name": "qmix_jax.agents.mlp"},
        "agent 'qmix_jax.agents.mlp' has no NumPy implementation",
    ),
    "bfloat16": ({"precision": "bfloat16"}, "NumPy does not support bfloat16"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_policies_that_numpy_does_not_support_are_exported_as_stablehlo_only(
    values, message, sampling_directory, tmp_path
):
    run = copied(sampling_directory, tmp_path / "run", **values)
    with pytest.raises(config.ConfigError, match=f"numpy: .*{message}.*use --format stablehlo"):
        qmix_jax.export_run(run, tmp_path / "export", formats=("numpy",))
    assert not (tmp_path / "export").exists()
    with pytest.warns(UserWarning, match=f"numpy is not written: .*{message}") as warned:
        folder = qmix_jax.export_run(run, tmp_path / "export", platforms=("cpu",))
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "metadata.json", "policy.stablehlo"}
    assert "weights.npz" not in (folder / "README.md").read_text()
    obs, avail = (np.repeat(x, 50, axis=0) for x in GAME)
    actions = []
    for path in (run, folder):
        team = qmix_jax.load_policy(path)
        actions.append(team.act(obs, avail, team.initial_state(50, seed=1))[0])
    np.testing.assert_array_equal(*actions)


def test_the_command_reports_the_format_that_is_not_written(sampling_directory, tmp_path, capsys):
    value = {"algo.options.head": "none"}
    run = copied(sampling_directory, tmp_path / "run", **value)
    assert main.main(["export", str(run), "--platforms", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "numpy is not written" in line] == lines[-1:]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", ["reset", "prev_actions", "avail", "carry"])
def test_the_comparison_detects_a_program_that_ignores_an_input(ignored, run_directory):
    run = trained.read(run_directory)
    step = policy.make_step(run)

    def faulty(obs, avail, state):
        if ignored == "avail":
            avail = np.ones_like(avail)
        else:
            state = {**state, ignored: np.zeros_like(state[ignored])}
        return step(run.member_params(0), obs, avail, state)

    reference, about = agreement.reference_rollout(run, 0), policy.about(run, 0)
    assert "differ" in agreement.difference(reference, about, faulty)
    step = functools.partial(step, run.member_params(0))
    assert agreement.difference(reference, about, step) is None


def test_a_format_that_differs_is_not_written(run_directory, tmp_path, monkeypatch):
    def faulty(exported):
        def step(obs, avail, state):
            return exported.call(obs, avail, {**state, "carry": 0 * state["carry"]})

        return step

    monkeypatch.setattr(policy, "program_step", faulty)
    with pytest.raises(config.ConfigError, match=r"policy\.stablehlo does not act as the run does"):
        qmix_jax.export_run(run_directory, tmp_path / "export", formats=("stablehlo",))
    assert not (tmp_path / "export").exists()
    with pytest.warns(UserWarning, match="stablehlo is not written"):
        folder = qmix_jax.export_run(run_directory, tmp_path / "export")
    assert not (folder / "policy.stablehlo").exists() and (folder / "weights.npz").exists()


def test_algorithms_that_need_mean_actions_are_refused(run_directory, tmp_path, monkeypatch):
    original = trained.TrainedRun.algorithm

    def with_mean_action(run):
        algorithm = original(run)
        return algorithm._replace(needs=algorithm.needs._replace(mean_action=True))

    monkeypatch.setattr(trained.TrainedRun, "algorithm", with_mean_action)
    for use in (qmix_jax.load_policy, qmix_jax.export_run):
        with pytest.raises(config.ConfigError, match="acts on the mean action of each agent's"):
            use(run_directory)


def test_seed_last_reproduces_the_last_row(run_directory):
    result = qmix_jax.evaluate_run(run_directory, parameters="final", seed="last")
    rows = storage.read_metrics(run_directory / "metrics.csv")
    last = (rows["kind"] == "eval") & (rows["update"] == rows["update"].max())
    assert result.episodes == 6 and result.members == (0, 1) and result.seeds == ()
    for name, values in result.metrics.items():
        np.testing.assert_array_equal(values[:, 0], np.float32(rows[f"eval/{name}"][last]))


def test_evaluation_with_other_seeds_and_scenarios(run_directory):
    result = qmix_jax.evaluate_run(run_directory, episodes=16, seed=3, seeds=2, members="best")
    again = qmix_jax.evaluate_run(run_directory, episodes=16, seed=4, members=result.members)
    assert result.metrics["return"].shape == (1, 2) and result.seeds == (3, 4)
    np.testing.assert_array_equal(result.metrics["return"][:, 1:], again.metrics["return"])
    assert len(np.unique(result.metrics["return"])) == 2
    short = qmix_jax.evaluate_run(run_directory, values={"env.options.limit": 1})
    assert (short.metrics["length"] == 1).all()


def test_invalid_evaluations_are_refused(run_directory):
    for values, message in (
        ({"env": {"name": "toys.image"}}, "env: only keys of env"),
        ({"gamma": 1}, "gamma: only keys of env"),
        ({"env.options.limt": 1}, "unknown key 'env.options.limt'; did you mean 'limit'"),
        (
            {"env.name": "matrix", "env.options": {"game": "Q3"}},
            r"observation shapes of .*trained on counting: \(2,\) each; choose a scenario of equal",
        ),
        (
            {"env.name": "pettingzoo", "env.options": {"id": "toys.parallel"}},
            "is stepped in Python; use qmix_jax.load_policy instead",
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


def test_evaluate_and_export_commands(run_directory, tmp_path, capsys):
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
        (["evaluate", "x", "y"], "'y' is not key=value; give a single DIR, then key=value"),
        (["evaluate", "x", "--seed", "first"], "--seed: invalid number or 'last' value: 'first'"),
        (["export", "x", "--format", "onnx"], "allowed: stablehlo, numpy"),
        (["export", "x", "y"], "unrecognized arguments: y"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
