"""Pictures of mixers' weights, and inspection of an episode."""

import numpy as np
import pytest

import qmix_jax
from qmix_jax.cli import main
from qmix_jax.lab import weights

TINY = (
    "experiment=two_step", "seeds=2", "trainer.env_steps=64", "trainer.warm_up=64",
    "replay.capacity=64", "replay.batch_size=8", "agent.options.hidden=8",
)  # fmt: skip


def trained(tmp_path, algo):
    assert main.main(["train", *TINY, f"algo={algo}", f"hydra.run.dir={tmp_path / algo}"]) == 0
    return tmp_path / algo


@pytest.mark.slow
def test_weights_of_a_trained_run_are_drawn(tmp_path, capsys):
    folder = trained(tmp_path, "qplex_attention")
    assert main.main(["weights", str(folder), "--member", "1"]) == 0
    assert "weights.png" in capsys.readouterr().out
    assert (folder / "weights.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(qmix_jax.ConfigError, match=r"member=2, but the run has 2"):
        qmix_jax.weights(folder, member=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "printed"),
    [("vdn", "2B (rows: agent 1, columns: agent 2), 2 seeds"), ("iql", "2B, 2 seeds")],
)
def test_training_prints_tables_and_missing_weights_are_refused(algo, printed, tmp_path, capsys):
    folder = trained(tmp_path, algo)
    assert f"\n{printed}\n" in capsys.readouterr().out
    with pytest.raises(qmix_jax.ConfigError, match=f"algorithm '{algo}' has no weights.*qatten"):
        qmix_jax.weights(folder)


def test_heads_and_agents_are_rows_and_time_is_columns():
    values = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)
    labels, table = weights._rows(values, ("a", "b"))
    assert labels == ["head 1, a", "head 1, b", "head 2, a", "head 2, b", "head 3, a", "head 3, b"]
    np.testing.assert_array_equal(table[:, 1], values[1].ravel())
    assert len(weights.draw({"x": values, "y": values[:, 0]}, ("a", "b"), "t").axes) == 4


@pytest.mark.slow
def test_inspect_episode_returns_each_step_of_one_member(tmp_path):
    """The rewards of the episode sum to the return of the member's evaluation."""
    cfg = qmix_jax.compose_config(*TINY, "algo=qplex")
    result = qmix_jax.train(cfg, tmp_path / "run")
    episodes = [qmix_jax.inspect_episode(cfg, result.parameters, member) for member in range(2)]
    for values, returned in zip(episodes, result.metrics["eval/return"][-2:], strict=True):
        assert values["utilities"].shape == (2, 2, 2) and values["q_tot"].shape == (2,)
        assert values["mixer/importance"].shape == (2, 2)
        assert values["reward"].sum() == returned, (
            "greedy play of the two-step game is deterministic"
        )
    assert not np.array_equal(episodes[0]["utilities"], episodes[1]["utilities"])
    with pytest.raises(qmix_jax.ConfigError, match=r"member=2, but the run has 2"):
        qmix_jax.inspect_episode(cfg, result.parameters, 2)
