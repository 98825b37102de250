"""User-defined mixers and algorithms: modules outside the package, chosen by dotted path."""

import pathlib
import sys

import jax
import numpy as np
import pytest
import samples

import qmix_jax

MIXER = ("experiment=two_step", "algo=vdn", "algo.name=weighted", "algo.mixer.name=toys.weighted")


@pytest.mark.slow
def test_a_custom_mixer_trains_with_options(tmp_path):
    tiny = ("seeds=2", "trainer.env_steps=400", "eval.every=400")
    cfg = qmix_jax.compose_config(*MIXER, "+algo.mixer.options.start=2.0", *tiny)
    result = qmix_jax.train(cfg, tmp_path / "run")
    weight = np.asarray(result.parameters["mixer"]["weight"])
    assert weight.shape == (2, 2) and (weight != 2.0).all() and (np.abs(weight - 2.0) < 1.0).all()
    tables = qmix_jax.game_tables(result)
    assert len(tables.joint) == 3, "joint values are tabulated, as for every mixer"
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), result.parameters))


ALGORITHM = (
    "experiment=two_step", "algo=iql", "algo.name=hysteretic",
    "algo.algorithm=toys.hysteretic",
)  # fmt: skip


def test_a_custom_algorithm_weights_negative_errors():
    """With beta 1 it is independent Q-learning; the loss is linear in beta."""
    agent = samples.component("agents", "gru", {"hidden": 4})
    batch = samples.batch("segment")
    params, targets = (samples.params(agent.init, seed) for seed in (0, 1))

    def loss(name, beta):
        made = samples.algorithm(name, {}, agent, None)
        call = samples.jit(samples.loss(made))
        hparams = samples.hparams(algo={"beta": beta})
        return call({"agent": params}, {"agent": targets}, batch, hparams)[0]

    full, none, some = (loss("toys.hysteretic", beta) for beta in (1.0, 0.0, 0.3))
    np.testing.assert_allclose(full, loss("iql", 1.0), rtol=1e-6)
    assert 0 < none < full
    np.testing.assert_allclose(some, none + 0.3 * (full - none), rtol=1e-5)


@pytest.mark.slow
def test_a_custom_algorithm_trains_with_coefficients(tmp_path):
    tiny = ("seeds=2", "trainer.env_steps=400", "eval.every=400", "+hparams.algo.beta=0.2")
    cfg = qmix_jax.compose_config(*ALGORITHM, *tiny)
    assert dict(cfg.hparams.algo) == {"beta": 0.2}
    result = qmix_jax.train(cfg, tmp_path / "run")
    assert np.isfinite(result.metrics["eval/return"]).any()
    assert [x.shape for x in qmix_jax.game_tables(result).utilities] == [(2, 2, 2)] * 3


@pytest.mark.slow
def test_a_custom_agent_trains_with_options(tmp_path):
    cfg = qmix_jax.compose_config(
        "experiment=two_step", "agent=custom", "agent.name=toys.leaky",
        "+agent.options.half_life=8", "+agent.options.sharing=none",
        "seeds=2", "trainer.env_steps=400", "eval.every=400",
    )  # fmt: skip
    result = qmix_jax.train(cfg, tmp_path / "run")
    decay = np.asarray(result.parameters["agent"]["decay"])
    initial = 0.5 ** (1 / 8)
    assert decay.shape == (2, 2, 1, 1, 64)
    learned = 1 / (1 + np.exp(-decay))
    assert 1e-4 < np.abs(learned - initial).max() < 0.1
    policy = qmix_jax.load_policy(result.directory)
    obs = np.zeros((len(policy.agent_names), *policy.obs_shape), np.float32)
    actions, _ = policy.act(obs, None, policy.initial_state())
    assert actions.shape == (2,)


def test_invalid_options_of_a_custom_component_are_explained():
    with pytest.raises(qmix_jax.ConfigError, match=r"algo\.mixer\.options\.strat.*start"):
        qmix_jax.compose_config(*MIXER, "+algo.mixer.options.strat=2.0")


def test_custom_modules_are_imported_from_the_working_directory(tmp_path, run_python):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "empty.py").write_text("")
    command = pathlib.Path(sys.executable).with_name("qmix-jax")
    process = run_python(str(command), "train", "env=custom", "env.name=my_lab.empty")
    assert process.returncode == 2 and "my_lab.empty" in process.stderr, process.stderr
    assert "no module" not in process.stderr
