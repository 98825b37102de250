"""A key of another library suggests ours, in every interface."""

import pytest
from toys.command_line import run

import qmix_jax
from qmix_jax import config, synonyms
from qmix_jax.cli import composition

NAMES = [
    ("lr", "hparams.learning_rate"),
    ("LR", "hparams.learning_rate"),
    ("learning_rate", "hparams.learning_rate"),
    ("hparams.lr", "hparams.learning_rate"),
    ("system.q_lr", "hparams.learning_rate"),
    ("gamma", "hparams.gamma"),
    ("GAMMA", "hparams.gamma"),
    ("tau", "hparams.target_tau"),
    ("TARGET_UPDATE_INTERVAL", "hparams.target_period"),
    ("epsilon_start", "hparams.epsilon.start"),
    ("EPS_FINISH", "hparams.epsilon.end"),
    ("epsilon_anneal_time", "hparams.epsilon.steps"),
    ("grad_norm_clip", "hparams.max_grad_norm"),
    ("batch_size", "replay.batch_size"),
    ("BUFFER_BATCH_SIZE", "replay.batch_size"),
    ("buffer_size", "replay.capacity"),
    ("replay_buffer_size", "replay.capacity"),
    ("total_timesteps", "trainer.env_steps"),
    ("arch.total_timesteps", "trainer.env_steps"),
    ("t_max", "trainer.env_steps"),
    ("max_steps", "trainer.env_steps"),
    ("NUM_STEPS", "trainer.window"),
    ("rollout_length", "trainer.window"),
    ("num_envs", "trainer.n_envs"),
    ("n_envs", "trainer.n_envs"),
    ("batch_size_run", "trainer.n_envs"),
    ("NUM_EPOCHS", "trainer.gradient_steps"),
    ("learning_starts", "trainer.warm_up"),
    ("test_interval", "eval.every"),
    ("test_nepisode", "eval.episodes"),
    ("num_seeds", "seeds"),
    ("env_name", "env"),
    ("env.map_name", "env.options.scenario"),
    ("env_args.map_name", "env.options.scenario"),
    ("map_name", "env.options.scenario"),
    ("hidden_size", "agent.options.hidden"),
    ("hidden_dim", "agent.options.hidden"),
    ("rnn_hidden_dim", "agent.options.hidden"),
    ("obs_last_action", "agent.options.last_action"),
    ("mixer", "algo"),
    ("use_double_q", "algo.options.double_q"),
    ("mixing_embed_dim", "algo.mixer.options.embed_dim"),
    ("optimizer", "optimiser.name"),
    ("use_wandb", "logger"),
]


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize(("name", "key"), NAMES)
def test_every_interface_suggests_our_key(name, key):
    message = f"unknown key {name!r}; did you mean {key!r}\\? allowed: "
    with pytest.raises(config.ConfigError, match=message):
        qmix_jax.compose_config(f"{name}=3")
    with pytest.raises(config.ConfigError, match=message):
        qmix_jax.with_values(config.load({}), {name: 3})
    # A mapping with an unknown section is refused for the section.
    section = name.rpartition(".")[0]
    if section in ("", "hparams"):
        with pytest.raises(config.ConfigError, match=message):
            qmix_jax.load_config(nested(name, 3))
        with pytest.raises(config.ConfigError, match=message):
            qmix_jax.compose_config(f"+{name}=3")


def test_errors_of_yaml_and_the_command_line_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [two_step]\nTOTAL_TIMESTEPS: 1e6\n"
    )
    for arguments, message in (
        (("--config-dir", ".", "experiment=mine"), "'TOTAL_TIMESTEPS'; did you mean 'trainer.env_"),
        (("lr=1e-3",), "'lr'; did you mean 'hparams.learning_rate'? allowed: agent, "),
        (("-m", "lr=1e-3,1e-4"), "'lr'; did you mean 'hparams.learning_rate'? allowed: agent, "),
        (("env_args.map_name=3m",), "'env_args.map_name'; did you mean 'env.options.scenario'?"),
    ):
        assert run("train", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: config: unknown key {message}") and error.count("\n") == 1


def test_a_key_of_the_environment_suggests_no_other_section():
    assert synonyms.find("env.max_steps") is None
    with pytest.raises(
        config.ConfigError, match=r"'env\.options\.map_name'; .*allowed: exact_gamma"
    ):
        config.load({"env": {"name": "two_step", "options": {"map_name": "3m"}}})


def test_every_synonym_names_a_key_that_exists():
    with composition.composer(composition.Sources()) as composer:
        composed = composer.root(["logger=wandb", "+algo.mixer.options.x=1"])
    groups = composition.choices()
    for key in set(synonyms._KEYS.values()):
        node = composed
        for part in key.split("."):
            assert part in node or key in groups, key
            node = node[part] if node[part] is not None else {}


def test_no_synonym_is_one_of_our_keys():
    """Our keys are suggested by their last part."""
    ours = {key.rpartition(".")[2] for key in config._dotted_keys(config.ExperimentConfig)}
    assert ours & set(synonyms._KEYS) == {"mixer", "algorithm"}, "parts of `algo` that it sets"
