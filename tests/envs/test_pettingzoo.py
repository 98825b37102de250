"""Time steps of PettingZoo environments, and training that is stepped in Python."""

import jax
import numpy as np
import pytest

import qmix_jax
from qmix_jax import config, program
from qmix_jax.envs import base, pettingzoo
from qmix_jax.training import host_stepped
from qmix_jax.types import Discrete

SPREAD = "mpe.simple_spread_v3"


def make(**options):
    kwargs = options.pop("kwargs", {})
    return pettingzoo.make(
        pettingzoo.Config.model_validate({"id": "toys.parallel", "kwargs": kwargs, **options})
    )


def play(env, *joint_actions):
    """The time steps of `reset` and of each step."""
    episodes = env.start()
    return [episodes.reset(0), *(episodes.step(np.array(actions)) for actions in joint_actions)]


def test_unequal_agents_are_padded():
    spec = make().spec
    assert (spec.agent_names, spec.actions) == (("a", "b"), Discrete((3, 2)))
    assert spec.agent_groups == (0, 1)
    assert (spec.obs_shapes, spec.obs_shape, spec.state_size) == (((2,), (3,)), (3,), 5)
    assert (spec.max_steps, spec.obs_bounds) == (6, (0.0, 9.0))
    first, after = play(make(), (0, 0))
    np.testing.assert_array_equal(first.obs[1], [1, 0, 0])  # one-hot
    np.testing.assert_array_equal(after.obs[1], [0, 1, 0])
    assert after.obs[0, 0] == 1 and after.obs[0, 2] == 0
    np.testing.assert_array_equal(after.state, [*after.obs[0, :2], *after.obs[1]])
    np.testing.assert_array_equal(first.avail_actions, [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(("rule", "expected"), [("sum", 2.0), ("mean", 1.0)])
def test_the_team_reward_is_the_sum_or_mean(rule, expected):
    """The second action pays, also if a space does not start at 0."""
    env = make(reward=rule)
    both, first, none = (play(env, actions)[1].reward for actions in ((1, 1), (1, 0), (0, 0)))
    np.testing.assert_array_equal([both, first, none], [[1, 1], [1, 0], [0, 0]])
    assert [env.team_reward(reward) for reward in (both, first, none)] == [
        expected, expected / 2, 0,
    ]  # fmt: skip


def test_masks_set_available_actions():
    np.testing.assert_array_equal(play(make(), (2, 0))[1].avail_actions[0], [1, 1, 0])
    assert play(make(kwargs={"mask": False}), (2, 0))[1].avail_actions[0].all()


def test_an_agent_that_leaves_observes_zeros_and_has_one_action():
    timesteps = play(make(), *[(1, 1)] * 5)
    assert not timesteps[4].terminated and not timesteps[5].truncated
    for timestep in timesteps[4:]:
        np.testing.assert_array_equal(timestep.avail_actions[1], [1, 0, 0])
    assert not timesteps[5].obs[1].any()
    np.testing.assert_array_equal([step.reward for step in timesteps[4:]], [[1, 1], [1, 0]])


def test_termination_and_truncation_are_distinguished():
    """At a time limit, values bootstrap from the last observation, so its mask is kept."""
    last = play(make(), *[(1, 1)] * 6)[-1]
    assert last.truncated and not last.terminated
    assert last.avail_actions[0].sum() == 3 and last.obs[0, 0] == 6
    last = play(make(kwargs={"ends": "terminated"}), *[(1, 1)] * 6)[-1]
    assert last.terminated and not last.truncated
    last = play(make(max_steps=2), *[(1, 1)] * 2)[-1]
    assert last.truncated and last.avail_actions.sum() == 5
    episodes = base.with_truncation_as_termination(make(max_steps=1)).start()
    episodes.reset(0)
    assert episodes.step(np.array([0, 0])).terminated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kwargs": {"continuous": True}}, "allowed: Discrete"),
        ({"kwargs": {"max_cycles": 0}}, "set env.options.max_steps"),
        ({"kwargs": {"speed": 1}}, "correct env.options.kwargs"),
        ({"id": "mpe.simple_sprad_v3"}, r"no parallel_env .*qmix-jax\[pettingzoo\]"),
        ({"id": "toys.counting"}, "no parallel_env"),
    ],
)
def test_unsupported_environments_are_refused(options, message):
    with pytest.raises(config.ConfigError, match=message):
        make(**options)


def test_compiling_it_and_other_collectors_are_refused():
    mapping = {"env": {"name": "pettingzoo", "options": {"id": "toys.parallel"}}}
    with pytest.raises(config.ConfigError, match=r"set trainer\.collector=episode"):
        program.build(config.load(mapping))
    built = program.build(settings("toys.parallel", env_steps=100))
    with pytest.raises(config.ConfigError, match="stepped in Python"):
        jax.eval_shape(built.step.init, 0)
        built.step.collector.collect()


def test_environments_of_a_pool_are_independent():
    env = make(kwargs={"leaves": 2})
    pool = host_stepped.HostEnvPool(env)

    def act(t, filled, prev_actions):
        assert (prev_actions == (-1 if t == 0 else 1)).all()
        return np.ones_like(prev_actions), {}

    played = pool.play(np.array([1, 2, 1]), act)
    np.testing.assert_array_equal(played.obs[:, 0], played.obs[:, 2])
    assert (played.obs[:, 0] != played.obs[:, 1]).any()
    scores = played.scores(env, by_agent=True)
    np.testing.assert_array_equal(scores["return"], [8, 8, 8])
    np.testing.assert_array_equal(scores["length"], [6, 6, 6])
    np.testing.assert_array_equal([scores["return/a"], scores["return/b"]], [[6] * 3, [2] * 3])


def test_a_real_environment_passes_the_suite():
    result = qmix_jax.check_env("pettingzoo", {"id": SPREAD})
    assert result.passed, result.failures()
    assert result.env == f"pettingzoo/{SPREAD}"


def settings(id_, **trainer):
    return qmix_jax.load_config(
        {
            "name": "hosted",
            "env": {"name": "pettingzoo", "options": {"id": id_}},
            "agent": {"name": "mlp", "options": {"hidden": 16}},
            "hparams": {"epsilon": {"start": 1.0, "end": 0.1, "steps": 600.0}, "reward_scale": 1.0},
            "trainer": {
                "collector": "episode",
                "window": None,
                "n_envs": 4,
                "gradient_steps": 8,
                "warm_up": 100,
                **trainer,
            },
            "replay": {"batch_size": 8},
            "eval": {"every": 100_000, "episodes": 6},
        }
    )


@pytest.mark.slow
def test_it_learns_reproducibly(tmp_path):
    cfg = settings("toys.parallel", env_steps=1_000, log_every=200)
    (random, _) = qmix_jax.baseline(cfg).metrics["return"]
    first, second = (qmix_jax.train(cfg, tmp_path / name) for name in "ab")
    last = first.metrics["eval/return"][np.isfinite(first.metrics["eval/return"])][-2:]
    assert random < 6 < 9 <= last.min(), (random, last)  # 10 at best
    for name in ("train/loss", "eval/return", "rollout/return"):
        np.testing.assert_array_equal(first.metrics[name], second.metrics[name])
    again = qmix_jax.load_run(tmp_path / "a")
    np.testing.assert_array_equal(again.metrics["eval/return"], first.metrics["eval/return"])


@pytest.mark.slow
def test_a_real_environment_trains(tmp_path):
    result = qmix_jax.train(settings(SPREAD, env_steps=400, log_every=100), tmp_path / "run")
    assert np.isfinite(result.metrics["eval/return"]).any()
    assert (tmp_path / "run" / "curves.png").is_file()
