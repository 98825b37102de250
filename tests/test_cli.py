"""The command line: help, errors in one line, exit codes, and tiny runs."""

import importlib
import json
import re
import shlex
import sys
import types

import pytest
import yaml

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import composition, main
from qmix_jax.lab import pages
from qmix_jax.runs import outcomes

ALGOS = ", ".join(composition.choices()["algo"])
TINY = (
    "experiment=two_step",
    "seeds=2",
    "trainer.env_steps=120",
    "trainer.log_every=60",
    "eval.every=60",
)


@pytest.fixture
def api(monkeypatch, tmp_path):
    """Replaces `qmix_jax.api`: records the calls and ends with `outcome`."""
    calls = []

    def train(cfg, directory=None, command=None):
        calls.append(types.SimpleNamespace(cfg=cfg, directory=directory, command=command))
        if isinstance(fake.outcome, BaseException):
            raise fake.outcome
        return types.SimpleNamespace(interrupted=fake.outcome == "interrupted", objective=0.0)

    fake = types.SimpleNamespace(train=train, calls=calls, outcome="done")
    monkeypatch.setitem(sys.modules, "qmix_jax.api", fake)
    monkeypatch.setattr(qmix_jax, "api", fake, raising=False)
    monkeypatch.setattr(pages, "print_learnt", lambda result: None)
    monkeypatch.chdir(tmp_path)
    return fake


def run(*arguments):
    """Returns the exit code of the command line in this process."""
    try:
        return main.main(arguments)
    except SystemExit as stop:
        return stop.code


# Help


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_the_commands(words, capsys):
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"qmix-jax {qmix_jax.__version__}: ")
    commands = text.partition("\ncommands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in commands] == list(main.COMMANDS)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_of_a_command_has_usage_options_and_examples(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: qmix-jax {command} ")
    options, _, examples = text.partition("\nexamples:\n")
    assert "\n  -h, --help" in options
    assert examples.count(f"qmix-jax {command}") >= 2
    assert max(map(len, text.splitlines())) <= 90
    others = set(main.COMMANDS) - {command}
    assert not [other for other in others if f"qmix-jax {other} " in text], "that command alone"


def test_help_of_a_command_has_two_forms(capsys):
    assert run("help", "plan") == 0
    assert capsys.readouterr().out == main.help_text("plan")


@pytest.mark.parametrize("command", main.COMMANDS)
def test_examples_of_the_help_parse(command):
    examples = re.findall(rf"^  qmix-jax {command}(.*)$", main.help_text(command), re.MULTILINE)
    for text in examples:
        words = shlex.split(re.sub(r" {3,}.*", "", text))
        main.COMMANDS[command].parser().parse_intermixed_args(words)


def test_help_of_train_lists_groups_and_choices():
    text = " ".join(main.help_text("train").split())
    for group, choices in composition.choices().items():
        assert f" {group} {', '.join(choices)} " in text


def test_every_option_of_hydra_is_an_option_of_train():
    parser = main.COMMANDS["train"].parser()
    usage = importlib.import_module("hydra.main").get_args_parser().format_usage()
    names = set(re.findall(r"--[a-z-]+", usage)) - {"--version", "--experimental-rerun"}
    assert len(names) > 10 and names <= set(re.findall(r"--[a-z-]+", parser.format_help()))


def test_help_of_hydra(run_python):
    result = run_python("-m", "qmix_jax", "train", "--hydra-help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "== Flags ==" in result.stdout


def test_module_entry_in_a_process(run_python):
    result = run_python("-m", "qmix_jax")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == main.help_text()


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"qmix-jax {qmix_jax.__version__}\n"


# Errors

REFUSED = [
    (("tran",), "command line: unknown command 'tran'; did you mean 'train'? allowed: train"),
    (("seeds=4",), "command line: a command comes first; try: qmix-jax train seeds=4"),
    (("resume", "x"), "command line: unknown command 'resume'; use qmix-jax train resume=DIR"),
    (("train", "--foo"), "command line: unrecognized arguments: --foo"),
    (
        ("train", "--config-dir", "nowhere"),
        "command line: --config-dir 'nowhere' is not a folder; give an existing one\n",
    ),
    (
        ("train", "-cp", "x"),
        "command line: --config-path 'x' is not a folder; give an existing one",
    ),
    (
        ("train", "-cp", ".", "-cd", "."),
        "command line: --config-dir and --config-path exclude each other; give one",
    ),
    (("train", "--cfg", "jobs"), "command line: argument -c/--cfg: invalid choice: 'jobs'"),
    (("evaluate",), "command line: the following arguments are required: DIR; see qmix-jax eval"),
    (("report",), "command line: the following arguments are required: DIR; see qmix-jax report "),
    (("export", "x", "--membr", "1"), "command line: unrecognized arguments: --membr 1; see qmix-"),
    (("plan", "--cfg", "job"), "command line: unrecognized arguments: --cfg; see qmix-jax plan "),
    (("train", "--resolve"), "command line: --resolve needs --cfg; add --cfg job"),
    (("train", "-m", "--cfg", "job"), "command line: --run, --multirun, --cfg, --info and "),
    (
        ("train", "algo=qmx"),
        f"config: unknown choice algo=qmx; did you mean 'qmix'? allowed: {ALGOS}\n",
    ),
    (("train", "algox=qmix"), "config: unknown key 'algox'; did you mean 'algo'? allowed: agent, "),
    (
        ("train", "hparams.gama=0.9"),
        "config: unknown key 'hparams.gama'; did you mean 'hparams.gamma'? allowed: hparams.algo, ",
    ),
    (
        ("train", "batch_size=3"),
        "config: unknown key 'batch_size'; did you mean 'replay.batch_size'? allowed: agent, ",
    ),
    (("train", "seed.x=3"), "config: unknown key 'seed.x'; 'seed' is a single value; set seed=..."),
    (
        ("train", "env.options.kwargs.max_steps=3"),
        "config: unknown key 'env.options.kwargs.max_steps'; 'env.options.kwargs' is empty; "
        "add to it with +env.options.kwargs.max_steps=...",
    ),
    (
        ("train", "+foo.x=3"),
        "config: unknown key 'foo'; allowed: agent, algo, checkpoint, compile_cache, env, eval, ",
    ),
    (
        ("train", "+hparams.gama=1"),
        "config: unknown key 'hparams.gama'; did you mean 'gamma'? allowed: algo, epsilon, ",
    ),
    (("train", "seeds=0"), "config: seeds=0: input should be greater than 0; got int 0"),
    (("train", "seeds=two"), "config: seeds='two': input should be a valid integer; got str"),
    (("train", "seeds=null"), "config: seeds=None: input should be a valid integer; got NoneType"),
    (("train", "hparams.gamma=7"), "config: hparams.gamma=7: input should be less than or equal"),
    (("train", "agent.name=grue"), "config: agent.name='grue': unknown name 'grue'; allowed: gru"),
    (("train", "env=null"), "config: Config group override must be a string or a list"),
    (
        ("train", "seeds=[1"),
        "config: cannot parse 'seeds=[1' (no viable alternative at input '[1'); ",
    ),
    (("train", "seeds"), "config: 'seeds' is not key=value; give a value, such as seeds=4"),
    (
        ("train", "two_step"),
        "config: 'two_step' is not key=value; did you mean env=two_step or experiment=two_step?",
    ),
    (("train", "seeds=${foo}"), "config: Interpolation key 'foo' not found"),
    (("train", "seeds=???"), "config: Missing mandatory value: seeds"),
    (("train", "seeds=1,2"), "config: Ambiguous value for argument 'seeds=1,2'"),
    (("train", "--config-name", "nope"), "config: Cannot find primary config 'nope'"),
    (("train", "-m", "hparams.gamma=0.5,7"), "config: hparams.gamma=7: input should be less"),
    (("train", "-m", "algo=qmix,qmx"), "config: unknown choice algo=qmx; did you mean 'qmix'?"),
    (("train", "-m", "seeds=[1"), "config: "),
    (
        ("train", "-m", "hparams.gamma=interval(0,1)"),
        "command line: 'hparams.gamma=interval(0,1)' is a continuous range; search it with hydra/",
    ),
]


@pytest.mark.parametrize(
    ("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED]
)
def test_mistakes_are_one_line_and_exit_2(words, message, api, tmp_path, capsys):
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert not api.calls
    assert not list(tmp_path.iterdir())


def test_mistake_in_a_process(run_python, tmp_path):
    result = run_python("-m", "qmix_jax", "train", "algo=qmx")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: config: unknown choice algo=qmx; did you mean 'qmix'? allowed: {ALGOS}\n"
    )
    assert not list(tmp_path.iterdir())


# From the command line to the trainer


def test_overrides_reach_the_trainer(api, tmp_path):
    assert run("train", "experiment=two_step", "seeds=3", "hparams.learning_rate=1e-3") == 0
    (call,) = api.calls
    assert call.cfg == config.load(
        composition.compose("experiment=two_step", "seeds=3", "hparams.learning_rate=1e-3")
    )
    assert call.cfg.hparams.learning_rate.end == 1e-3
    assert call.command == ("qmix-jax train experiment=two_step seeds=3 hparams.learning_rate=1e-3")
    directory = tmp_path / "runs" / "two_step" / "qmix"
    assert [str(path) for path in directory.iterdir()] == [call.directory]
    assert not any(directory.glob("*/*"))  # Hydra writes no files


def test_the_run_directory_can_be_chosen(api, tmp_path):
    assert run("train", "hydra.run.dir=here") == 0
    assert api.calls[0].directory == str(tmp_path / "here")
    assert sys.argv[0] != "qmix-jax train"


def test_flags_may_stand_between_overrides(api):
    assert run("train", "experiment=matrix", "-m", "seed=1,2", "seeds=1") == 0
    assert [call.cfg.seed for call in api.calls] == [1, 2]


def test_each_job_of_a_multirun_has_a_directory(api, tmp_path, capsys):
    assert run("train", "-m", "experiment=two_step", "algo=iql,qmix", "seeds=1") == 0
    names = [call.directory.rpartition("/")[2] for call in api.calls]
    assert names == ["0_two_step_iql", "1_two_step_qmix"]
    assert [call.command for call in api.calls] == [
        "qmix-jax train experiment=two_step algo=iql seeds=1",
        "qmix-jax train experiment=two_step algo=qmix seeds=1",
    ]
    assert api.calls[1].cfg.algo.mixer.options.embed_dim == 8
    assert capsys.readouterr().out.splitlines() == [
        "job 0: experiment=two_step algo=iql seeds=1",
        "job 1: experiment=two_step algo=qmix seeds=1",
    ]


def test_config_dir_adds_a_folder(api, tmp_path):
    folder = tmp_path / "my configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [two_step]\nname: mine\nhparams: {gamma: 0.5}\n"
    )
    assert run("train", "--config-dir", str(folder.parent), "experiment=mine") == 0
    (call,) = api.calls
    assert (call.cfg.name, call.cfg.hparams.gamma, call.cfg.seeds) == ("mine", 0.5, 8)
    assert call.command == f"qmix-jax train --config-dir '{folder.parent}' experiment=mine"


def test_options_of_hydra_are_passed_on(api, capsys):
    assert run("train", "--cfg", "job", "-p", "stop", "name=${oc.env:HOME}", "--resolve") == 0
    out = capsys.readouterr().out
    assert out.startswith("# @package stop\nmetric: null\n") and "gamma" not in out
    assert not api.calls


def test_cfg_prints_and_runs_nothing(api, tmp_path, capsys):
    assert run("train", "experiment=matrix", "--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out) == composition.compose("experiment=matrix")
    assert not api.calls
    assert not (tmp_path / "runs").exists()


# Baselines


def test_baseline_prints_a_table_or_json(capsys):
    """(0, 0) pays 1 in a quarter of all steps until (1, 1) happens, which is as likely."""
    arguments = ("baseline", "experiment=mmdp", "eval.episodes=32", "env.options.max_steps=9")
    assert run(*arguments, "seed=7", "seeds=2", "--json", "policy=random") == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["env"], scores["policy"], scores["episodes"], scores["seed"]) == (
        "mmdp",
        "random",
        32,
        7,
    )
    first, second = scores["metrics"]["return"]
    assert first != second and 0.5 < first < 1.5
    assert scores["metrics"]["length"] == [9, 9]
    assert run(*arguments, "seed=7", "seeds=1") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "return" in line)
    assert float(line.split()[1]) == pytest.approx(first, rel=1e-2), "random by default"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("heuristic", "mmdp has no policy=heuristic; allowed: random"),
        ("randm", "mmdp has no policy=randm; did you mean 'random'? allowed: random"),
    ],
)
def test_a_policy_that_the_environment_lacks_is_an_error(policy, message, capsys):
    assert run("baseline", "experiment=mmdp", f"policy={policy}") == 2
    assert capsys.readouterr().err == f"error: baseline: {message}\n"


# Exit codes of the trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcome", "code", "stderr"),
    [
        ("done", 0, ""),
        ("interrupted", 130, ""),
        (config.ConfigError("plan: no"), 2, "error: plan: no\n"),
        (outcomes.NonFiniteError("train/loss is nan"), 1, "error: train/loss is nan\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["done", "interrupted", "mistake", "not finite", "Ctrl-C before training"],
)
@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["run", "multirun"])
def test_outcomes_become_exit_codes(outcome, code, stderr, flags, api, capsys):
    api.outcome = outcome
    assert run("train", *flags, "experiment=two_step", "seed=1") == code
    assert capsys.readouterr().err == stderr
    assert len(api.calls) == 1


def test_an_error_leaves_no_empty_run_directory(api, tmp_path):
    api.outcome = config.ConfigError("plan: no")
    assert run("train", "hydra.run.dir=here") == 2
    assert not (tmp_path / "here").exists()


def test_a_bug_raises(api):
    """Python prints the traceback and exits with 1."""
    api.outcome = KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):
        run("train", "experiment=two_step")


# Training


@pytest.mark.slow
def test_a_run_from_start_to_end(run_python, tmp_path):
    result = run_python("-m", "qmix_jax", "train", *TINY, "algo=vdn")
    assert result.returncode == 0, result.stderr
    (directory,) = (tmp_path / "runs" / "two_step" / "vdn").iterdir()
    saved = config.load(yaml.safe_load((directory / "config.yaml").read_text()))
    assert saved == config.load(composition.compose(*TINY, "algo=vdn"))
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["command"] == f"qmix-jax train {' '.join(TINY)} algo=vdn"
    header, *rows = (directory / "metrics.csv").read_text().splitlines()
    assert "eval/return" in header
    assert rows
    assert not (directory / ".hydra").exists()
    assert not list(directory.glob("*.log"))


@pytest.mark.slow
def test_a_multirun_from_start_to_end(run_python, tmp_path):
    result = run_python("-m", "qmix_jax", "train", *TINY, "-m", "algo=iql,vdn")
    assert result.returncode == 0, result.stderr
    (sweep,) = (tmp_path / "runs" / "multirun").iterdir()
    for name in ("0_two_step_iql", "1_two_step_vdn"):
        assert (sweep / name / "metrics.csv").is_file()
        assert (sweep / name / "manifest.json").is_file()


def test_an_invalid_plan_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", *TINY, "trainer.n_envs=4", "replay.capacity=10", "seeds=1") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    assert "replay.capacity=10" in error
    assert not list((tmp_path / "runs" / "two_step" / "qmix").iterdir())


def test_a_run_directory_that_cannot_be_created_is_one_line(api, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("train", "hydra.run.dir=file/run") == 2
    assert capsys.readouterr().err == (
        "error: run directory: cannot create 'file/run' (Not a directory); "
        "choose another hydra.run.dir\n"
    )
