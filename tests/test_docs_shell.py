"""The commands of the documentation run in bash and are accepted, those in the text too.

Each block runs as it is, in an empty folder, where every program is a stand-in that records its
arguments. What was recorded goes through the real command line, up to the work itself.
"""

import importlib
import importlib.util
import inspect
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import submitit
import toys
from documents import DOCS, ROOT, TEXTS, blocks, each_text, inline_commands

import qmix_jax
from benchmarks import __main__ as benchmarks
from qmix_jax import groups, program
from qmix_jax.cli import jobs, main
from qmix_jax.cli.commands import lab

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

PROGRAMS = ("qmix-jax", "python", "python3", "pip", "pytest", "mkdocs", "git", "srun", "gcloud")
"""Programs that the documentation calls."""

STAND_IN = """\
#!/bin/bash
name="${0##*/}"
printf '%s\\0' $(($# + 1)) "$name" "$@" >>"$CALLS"
case "$name $1 $2" in
"python3 -m venv")
  mkdir -p "$3/bin" && cp "$PROGRAMS"/* "$3/bin" && touch "$3/bin/activate" ;;
"srun "*) exec "$@" ;;
"gcloud "*)
  for argument; do
    [[ "$argument" != --command=* ]] || bash -n -c "${argument#--command=}" || exit 1
  done ;;
esac
"""

PURE = {"compose_config", "dump_config", "load_config", "with_values"}
"""Public functions that are called for real; the others end the command."""

USER_MODULES = {
    "my_lab.hysteretic": "toys.hysteretic",
    "my_lab.leaky": "toys.leaky",
    "my_lab.rescue": "examples.rescue",
    "my_lab.returns": "toys.returns",
    "my_lab.weighted": "toys.weighted",
}
"""Module that a page builds -> the same module here."""


PLANNED = set()
"""Environments, and combinations of components, that can be trained."""


SEEN = set()
"""Commands of earlier pages."""


class Accepted(BaseException):
    """The command line accepted a command and began its work."""


def run_block(block: str, folder: pathlib.Path) -> list[list[str]]:
    """Runs a shell block in an empty folder and returns the commands, arguments split by bash."""
    programs = folder / ".programs"
    programs.mkdir()
    (folder / ".ci").mkdir()
    for path in (*(programs / name for name in PROGRAMS), folder / ".ci" / "run"):
        path.write_text(STAND_IN)
        path.chmod(0o755)
    calls = folder / ".calls"
    calls.touch()
    result = subprocess.run(
        # failglob: an unquoted pattern is an error, as it is in zsh
        [
            "/bin/bash",
            "-euo",
            "pipefail",
            "-O",
            "failglob",
            "-c",
            f"PATH={programs}:$PATH\n{block}",
        ],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "CALLS": str(calls), "PROGRAMS": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0 and not result.stderr, f"{block}\n{result.stderr}"
    fields = iter(calls.read_bytes().decode().split("\0")[:-1])
    return [[next(fields) for _ in range(int(count))] for count in fields]


def commands(path: pathlib.Path, folder: pathlib.Path) -> list[list[str]]:
    """Every command in the shell blocks and in the text of a page."""
    calls = []
    for number, block in enumerate([*blocks(path, "sh", "bash"), inline_commands(path)]):
        (folder / str(number)).mkdir()
        calls += run_block(block, folder / str(number))
    return calls


@each_text
def test_shell_blocks_run_in_bash(path, tmp_path):
    for name, *arguments in commands(path, tmp_path):
        if name in ("python", "python3") and arguments[0] == "-m":
            check_module(*arguments[1:])
        elif name in ("python", "python3"):
            assert (ROOT / arguments[0]).is_file(), arguments
        elif name == "pip":
            for extra in re.findall(
                r"[\w-]+", "".join(re.findall(r"\[.*?\]", " ".join(arguments)))
            ):
                assert extra in EXTRAS, f"{arguments}: no extra {extra!r}"
        elif name == "mkdocs":
            assert (ROOT / arguments[arguments.index("-f") + 1]).is_file(), arguments


def check_module(module: str, *arguments: str) -> None:
    """Refuses modules and benchmarks that do not exist."""
    assert importlib.util.find_spec(module), module
    if module == "benchmarks" and arguments[0] != "--help":
        assert arguments[0] in benchmarks.NAMES, arguments


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reader's folder, with the modules and YAML files of the pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_lab", toys)
    for name, module in USER_MODULES.items():
        monkeypatch.setitem(sys.modules, name, importlib.import_module(module))
    for path in TEXTS:
        for block in blocks(path, "yaml"):
            if match := re.match(r"(?:# @package _global_\n)?# (my_\S+\.yaml)\n", block):
                file = tmp_path / match[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block)
    return tmp_path


@pytest.fixture
def no_work(monkeypatch):
    """A command line that stops where the work begins."""
    values = {name: getattr(qmix_jax, name) for name in qmix_jax.__all__}
    functions = {name for name, value in values.items() if inspect.isfunction(value)} - PURE
    for name in functions:
        monkeypatch.setattr(qmix_jax, name, accept, raising=False)
    modules = [module for name, module in sys.modules.items() if name.startswith("qmix_jax.")]
    for module in modules:
        for attribute, value in list(vars(module).items()):
            if any(value is values[name] for name in functions):
                monkeypatch.setattr(module, attribute, accept)
    monkeypatch.setattr(submitit, "AutoExecutor", accept)
    check = jobs.configs

    def check_once(options):
        """Hydra composes a second time only where it has launchers or sweepers to set up."""
        configs = check(options)
        if not any("hydra/" in text for text in options.overrides):
            accept(configs)
        return configs

    monkeypatch.setattr(jobs, "configs", check_once)


def accept(*args, **kwargs):
    """Stands in for the public functions: plans configurations, and trains nothing."""
    values = [value for arg in args for value in (arg if isinstance(arg, list) else [arg])]
    configs = [value.config if isinstance(value, qmix_jax.Job) else value for value in values]
    configs = [cfg for cfg in configs if isinstance(cfg, qmix_jax.ExperimentConfig)]
    for group in groups.split(configs) if configs else ():
        cfg = group.config
        learner = (cfg.env.name, cfg.agent, cfg.algo, cfg.replay.kind, cfg.trainer.collector)
        if not {cfg.env, learner} <= PLANNED:
            program.build(cfg)
            PLANNED.update({cfg.env, learner})
    raise Accepted


def run(arguments: list[str]) -> int:
    """Exit code of the command line; 0 if it accepted the command."""
    try:
        return main.main(arguments)
    except Accepted:
        return 0
    except SystemExit as stop:
        return stop.code or 0


@pytest.mark.slow
@each_text
def test_commands_are_accepted(path, folder, no_work, capsys):
    for name, *arguments in commands(path, folder):
        if name != "qmix-jax" or tuple(arguments) in SEEN:
            continue
        SEEN.add(tuple(arguments))
        if arguments[0] == "lab":
            place = [*arguments, "--games", "Q3"].index("--games") + 1
            first, *games = (*arguments, "--games", "Q3")[place].split(",")
            assert set(games) <= set(lab.GAMES)  # composed in the same way as the first
            arguments = [*arguments[: place - 1], *arguments[place + 1 :], "--games", first]
        for argument in arguments:
            key, _, directory = argument.partition("=")
            if key == "resume" and directory != "auto":
                (folder / directory).mkdir(parents=True, exist_ok=True)
        code = run(arguments)
        assert code == 0, f"qmix-jax {shlex.join(arguments)}: {capsys.readouterr().err}"


CHEAP = {"check-env": (), "doctor": ("--no-self-test",)}
"""Commands that take seconds -> flags to add; they run for real."""


@pytest.mark.slow
def test_cheap_commands_run(folder, capsys):
    for path in TEXTS:
        place = folder / "-".join(path.relative_to(ROOT).parts)
        place.mkdir()
        for name, *arguments in commands(path, place):
            if name == "qmix-jax" and arguments[0] in CHEAP:
                code = run([*arguments, *CHEAP[arguments[0]]])
                assert code == 0, f"qmix-jax {shlex.join(arguments)}: {capsys.readouterr().err}"


def test_a_mistake_in_quoting_is_an_error(tmp_path):
    with pytest.raises(AssertionError, match="syntax error"):
        run_block("qmix-jax train algo=choice(qmix,vdn)", tmp_path)


def test_commands_are_split_by_bash(tmp_path):
    block = (
        "qmix-jax train 'env.options={a: 1}' \\\n  seeds=2  # two seeds\n.venv/bin/qmix-jax plan"
    )
    block = f"python3 -m venv .venv && {block}"
    assert run_block(block, tmp_path) == [
        ["python3", "-m", "venv", ".venv"],
        ["qmix-jax", "train", "env.options={a: 1}", "seeds=2"],
        ["qmix-jax", "plan"],
    ]


def test_the_pages_have_commands(tmp_path):
    counts = {}
    for path in (ROOT / "README.md", DOCS / "training.md", DOCS / "custom_mixer.md"):
        (tmp_path / path.stem).mkdir()
        calls = commands(path, tmp_path / path.stem)
        counts[path.name] = sum(call[0] == "qmix-jax" for call in calls)
    assert counts["README.md"] >= 5
    assert counts["training.md"] > 10
    assert counts["custom_mixer.md"] == 4
