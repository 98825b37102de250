"""User-defined YAML files compose as in Hydra, and `compose_config` restores Hydra's
global state.
"""

import concurrent.futures
import textwrap
import types

import pytest
from hydra.core import global_hydra
from toys.command_line import run

import qmix_jax
from qmix_jax import api
from qmix_jax.cli import composition
from qmix_jax.lab import pages


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A working directory; `folder.write(name, text)` writes a YAML file into `mine`."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    return types.SimpleNamespace(path=tmp_path, write=write)


@pytest.fixture
def trained(monkeypatch):
    """Replaces training by a record of the configurations, alone and together."""
    record = types.SimpleNamespace(alone=[], together=[], commands=[])

    def train(cfg, directory=None, command=None):
        record.alone.append(cfg)
        record.commands.append(command)
        return result()

    def train_many(jobs, *_, **__):
        record.together.append([job.config for job in jobs])
        record.commands += [job.command for job in jobs]
        return tuple(result() for _ in jobs)

    def result():
        return types.SimpleNamespace(objective=1.0, failures={}, interrupted=False, pruned=False)

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(api, "train_many", train_many)
    monkeypatch.setattr(pages, "print_learnt", lambda result: None)
    return record


GRID = """\
    # @package _global_
    defaults: [two_step]
    seeds: 1
    hydra:
      sweeper:
        params:
          hparams.gamma: 0.9,0.8
          seed: range(2)
    """


def test_the_space_of_a_grid_may_be_in_yaml(folder, trained):
    folder.write("experiment/grid", GRID)
    assert run("train", "-m", "--config-dir", "mine", "experiment=grid") == 0
    values = [(cfg.hparams.gamma, cfg.seed) for cfg in trained.alone]
    assert values == [(0.9, 0), (0.9, 1), (0.8, 0), (0.8, 1)]
    assert trained.commands[0] == (
        f"qmix-jax train --config-dir {folder.path / 'mine'} "
        "hparams.gamma=0.9 seed=0 experiment=grid"
    )


def test_the_command_line_wins_over_a_space_in_yaml(folder, trained):
    folder.write("experiment/grid", GRID)
    arguments = ("experiment=grid", "hparams.gamma=0.5", "seed=7,8")
    assert run("train", "-m", "--config-dir", "mine", *arguments) == 0
    assert [(cfg.hparams.gamma, cfg.seed) for cfg in trained.alone] == [(0.5, 7), (0.5, 8)]


def test_every_job_of_a_space_in_yaml_is_checked_before_the_first_starts(folder, trained, capsys):
    folder.write("experiment/grid", GRID.replace("0.9,0.8", "0.9,8"))
    assert run("train", "-m", "--config-dir", "mine", "experiment=grid") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config: hparams.gamma=8: input should be less than or equal")
    assert not trained.alone and [path.name for path in folder.path.iterdir()] == ["mine"]


def test_an_experiment_may_choose_the_launcher_and_be_a_multirun(folder, trained):
    text = GRID.replace("[two_step]", "[two_step, override /hydra/launcher: fused]")
    folder.write("experiment/grid", text.replace("hydra:\n", "hydra:\n      mode: MULTIRUN\n"))
    assert run("train", "--config-dir", "mine", "experiment=grid") == 0
    assert not trained.alone
    assert [len(configs) for configs in trained.together] == [4]


SEARCH = """\
    # @package _global_
    defaults: [two_step, override /hydra/sweeper: optuna]
    seeds: 1
    hydra:
      sweep: {dir: study}
      sweeper:
        n_trials: 3
        batch: 2
        params:
          hparams.gamma: interval(0.9,0.99)
          algo: choice(qmix,vdn)
    """


@pytest.mark.slow
def test_a_search_may_be_in_yaml(folder, trained):
    folder.write("experiment/mine", SEARCH)
    assert run("train", "-m", "--config-dir", "mine", "experiment=mine", "algo=vdn") == 0
    assert [len(configs) for configs in trained.together] == [2, 1]
    configs = [cfg for batch in trained.together for cfg in batch]
    assert {cfg.algo.name for cfg in configs} == {"vdn"}, "the command line wins"
    assert len({cfg.hparams.gamma for cfg in configs}) == 3
    assert all(0.9 <= cfg.hparams.gamma <= 0.99 for cfg in configs)
    assert (folder.path / "study" / "trials.csv").is_file()


def test_the_ends_of_a_space_in_yaml_are_checked_first(folder, trained, capsys):
    folder.write("experiment/mine", SEARCH.replace("0.99", "1.5"))
    assert run("train", "-m", "--config-dir", "mine", "experiment=mine") == 2
    assert capsys.readouterr().err.startswith("error: config: hparams.gamma=1.5: input should be")
    assert not trained.together and not (folder.path / "study").exists()


ROOT = """\
    defaults:
      - config
      - override experiment: two_step
      - _self_
    name: mine
    seeds: 3
    hydra: {run: {dir: here}}
    """


@pytest.mark.parametrize("flag", ["--config-dir", "--config-path"])
def test_a_root_may_be_in_another_folder(flag, folder, trained):
    folder.write("root", ROOT)
    assert run("train", flag, "mine", "-cn", "root", "algo=vdn", "seed=5") == 0
    (cfg,) = trained.alone
    assert (cfg.name, cfg.env.name, cfg.seeds, cfg.algo.name) == ("mine", "two_step", 3, "vdn")
    assert trained.commands == [
        f"qmix-jax train {flag} {folder.path / 'mine'} --config-name root algo=vdn seed=5"
    ]
    assert (folder.path / "here").is_dir()
    overrides = ("algo=vdn", "seed=5")
    assert cfg == qmix_jax.compose_config(*overrides, config_dir="mine", config_name="root")


def test_the_folder_of_config_path_is_searched_first(folder, trained):
    folder.write("experiment/two_step", "# @package _global_\nname: shadow\n")
    assert run("train", "--config-path", "mine", "experiment=two_step") == 0
    assert run("train", "--config-dir", "mine", "experiment=two_step") == 0
    assert [cfg.name for cfg in trained.alone] == ["shadow", "two_step"]


def test_mistakes_in_a_root_are_one_line(folder, trained, capsys):
    folder.write("root", ROOT.replace("seeds: 3", "sead: 3"))
    assert run("train", "--config-dir", "mine", "-cn", "root") == 2
    assert capsys.readouterr().err.startswith("error: config: unknown key 'sead'; did you mean 'se")
    folder.write("root", ROOT.replace("experiment: two_step", "experiment: two_stp"))
    assert run("train", "--config-dir", "mine", "-cn", "root") == 2
    assert "unknown choice experiment=two_stp; did you mean 'two_step'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["seeds: 3\n", "defaults:\n  - override /hydra/launcher: fused\n"])
def test_an_experiment_without_its_header_is_explained(folder, trained, capsys, text):
    folder.write("experiment/mine", text)
    assert run("train", "--config-dir", "mine", "experiment=mine") == 2
    assert "must be `# @package _global_`" in capsys.readouterr().err


def test_resume_auto_accepts_a_directory_from_yaml(folder, trained, capsys):
    folder.write("root", ROOT)
    assert run("train", "--config-dir", "mine", "-cn", "root", "resume=auto") == 0
    folder.write("root", ROOT.replace("dir: here", 'dir: "${now:%H}"'))
    assert run("train", "--config-dir", "mine", "-cn", "root", "resume=auto") == 2
    assert "resume=auto needs a fixed hydra.run.dir=FOLDER" in capsys.readouterr().err


def test_plan_reads_spaces_in_yaml_too(folder, monkeypatch):
    folder.write("experiment/grid", GRID)
    planned = []
    monkeypatch.setattr(api, "plan_runs", lambda configs, memory=None: planned.extend(configs))
    assert run("plan", "-m", "--config-dir", "mine", "experiment=grid") == 0
    assert [cfg.seed for cfg in planned] == [0, 1, 0, 1]


# Hydra's global state


def test_threads_compose_at_the_same_time():
    gammas = [0.1 * i for i in range(1, 9)]

    def gamma(value):
        return qmix_jax.compose_config("experiment=two_step", f"hparams.gamma={value}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        configs = list(pool.map(gamma, gammas))
    assert [cfg.hparams.gamma for cfg in configs] == gammas
    assert not global_hydra.GlobalHydra.instance().is_initialized()


def test_a_failed_composition_restores_the_state_too():
    before = global_hydra.GlobalHydra.instance()
    with pytest.raises(qmix_jax.ConfigError):
        qmix_jax.compose_config("algo=qmx")
    assert global_hydra.GlobalHydra.instance() is before
    assert not before.is_initialized()


PROGRAM = """\
    import threading

    import hydra
    from hydra.core import global_hydra, hydra_config, utils
    from omegaconf import OmegaConf

    import qmix_jax


    @hydra.main(version_base="1.2", config_path="conf", config_name="app")
    def main(cfg):
        state = global_hydra.GlobalHydra.instance()
        program, node = state.hydra, hydra_config.HydraConfig.get()
        made = []

        def compose():
            made.append(qmix_jax.compose_config("experiment=two_step", f"seed={cfg.x}"))

        compose()
        threads = [threading.Thread(target=compose) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert global_hydra.GlobalHydra.instance() is state and state.hydra is program
        assert hydra_config.HydraConfig.get() is node and node.job.name == "program"
        assert utils.JobRuntime.instance().get("name") == "program"
        assert hydra.version.getbase().minor == 2
        assert cfg.directory == node.runtime.output_dir
        assert hydra.compose("app", ["x=5"]).x == 5, "the program's own folder"
        print([(config.env.name, config.seed) for config in made])


    main()
    """


@pytest.mark.slow
def test_a_program_of_hydra_composes_and_continues(folder, run_python):
    (folder.path / "program.py").write_text(textwrap.dedent(PROGRAM))
    (folder.path / "conf").mkdir()
    (folder.path / "conf" / "app.yaml").write_text(
        "x: 3\ndirectory: ${hydra:runtime.output_dir}\nhydra: {output_subdir: null}\n"
    )
    result = run_python("program.py", "-m", "x=1,2")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("[(")]
    assert lines == [str([("two_step", x)] * 4) for x in (1, 2)]


def test_folders_that_do_not_exist_are_refused():
    for sources in (
        composition.Sources(config_dir="nowhere"),
        composition.Sources(config_path="nowhere"),
    ):
        with pytest.raises(qmix_jax.ConfigError, match="'nowhere' is not a folder"):
            sources.folders()
