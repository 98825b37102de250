"""Learning probes: games with known answers, and values that tell which rule the code applies.

Each is one program and few seeds; `python -m benchmarks acceptance NAME` has the same games for
every algorithm, with more.
"""

import types

import jax
import numpy as np
import pytest
import samples
import tabular
from toys import members

from qmix_jax import components
from qmix_jax.envs import mmdp
from qmix_jax.lab import measure

pytestmark = pytest.mark.slow

MLP = {"name": "mlp", "options": {"hidden": 32}}
ALGOS = {
    "iql": {"name": "iql", "algorithm": "iql", "mixer": None},
    "vdn": {"name": "vdn", "algorithm": "td", "mixer": {"name": "vdn"}},
    "qmix": {
        "name": "qmix",
        "algorithm": "td",
        "mixer": {"name": "qmix", "options": {"embed_dim": 8, "hypernet_layers": 1}},
    },
}
ALGOS["pqn_qmix"] = {**ALGOS["qmix"], "name": "pqn_qmix", "algorithm": "pqn"}


def load(env, algo, **changes):
    settings = {
        "env": env,
        "agent": MLP,
        "algo": ALGOS[algo],
        "seeds": 2,
        "hparams": {
            "epsilon": 1.0,
            "reward_scale": 1.0,
            "target_period": 20,
            "learning_rate": 3e-3,
            "gamma": 0.9,
            "td_lambda": 0.0,
        },
        "replay": {"batch_size": 32, "capacity": 320},
        "trainer": {"env_steps": 8_000, "warm_up": 64, "n_envs": 8, "gradient_steps": 2},
        "eval": {"every": 100_000, "episodes": 4},
    }
    for key, value in changes.items():
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    return members.load(**settings)


def tables(cfg, trained):
    """(decision point, joint values f32[P, A, A]) of each decision point of a game."""
    run = types.SimpleNamespace(config=cfg, parameters=trained.parameters)
    learnt = measure.game_tables(run)
    return list(zip(learnt.points, learnt.joint, strict=True))


def published_two_step(algo):
    """The settings of Rashid et al. 2018, appendix: 5,000 episodes of uniformly random play."""
    return load(
        {"name": "two_step"},
        algo,
        agent={"name": "mlp", "options": {"hidden": 64}},
        seed=100,  # nothing was tuned on these; one seed in a hundred strays by more than 0.2
        hparams={"gamma": 0.99, "target_period": 100, "learning_rate": 5e-4},
        optimiser={"name": "rmsprop"},
        replay={"capacity": 500},
        trainer={"env_steps": 10_000, "n_envs": 1, "gradient_steps": 1, "collector": "episode"},
        eval={"episodes": 1},
    )


def test_qmix_learns_the_two_step_game():
    """QMIX learns the complete table from 5,000 episodes of uniformly random play."""
    cfg = published_two_step("qmix")
    trained = members.train(cfg)
    np.testing.assert_array_equal(trained.evaluation["return"], 8)
    for point, learned in tables(cfg, trained):
        assert np.abs(learned - point.optimal).max() < 0.2, f"{point.name}: every seed"


def test_pqn_learns_the_two_step_game():
    """As before, from the last 32 episodes only: 2 epochs of 2 minibatches."""
    cfg = load(
        {"name": "two_step"},
        "pqn_qmix",
        hparams={"gamma": 0.99, "learning_rate": {"start": 5e-3, "end": 2e-4, "steps": 2_500.0}},
        optimiser={"name": "radam"},
        replay={"kind": "on_policy", "batch_size": 16, "capacity": None},
        trainer={"env_steps": 40_000, "warm_up": 0, "n_envs": 32, "gradient_steps": 4},
    )
    trained = members.train(cfg)
    np.testing.assert_array_equal(trained.evaluation["return"], 8)
    for point, learned in tables(cfg, trained):
        assert np.abs(learned.mean(axis=0) - point.optimal).max() < 0.1, point.name


@pytest.mark.parametrize(("algo", "precision"), [("iql", "default"), ("vdn", "bfloat16")])
def test_a_cooperative_matrix_game_reaches_its_optimum(algo, precision):
    env = {"name": "matrix", "options": {"game": "P2"}}
    trained = members.train(load(env, algo, precision=precision))
    np.testing.assert_allclose(trained.evaluation["return"], 12)


def test_vdn_learns_the_least_squares_additive_table():
    """The exact projection under uniform exploration, with every episode stored."""
    cfg = load(
        {"name": "matrix", "options": {"game": "Q3"}},
        "vdn",
        hparams={"learning_rate": {"start": 3e-3, "end": 1e-4, "steps": 2_000}},
        replay={"capacity": 8_000},
    )
    trained = members.train(cfg)
    ((point, learned),) = tables(cfg, trained)
    assert np.abs(learned.mean(axis=0) - point.exact["additive"]).max() < 0.5
    np.testing.assert_allclose(trained.evaluation["return"], 0.0)


BOOTSTRAPPED, TERMINATED = 10.0, 1 / (1 - 0.9 * 4 / 5)


@pytest.mark.parametrize(
    ("truncation", "value", "collection"),
    [
        ("bootstrap", BOOTSTRAPPED, {"collector": "segment"}),
        ("bootstrap", BOOTSTRAPPED, {"collector": "episode"}),
        ("bootstrap", BOOTSTRAPPED, {"collector": "window", "window": 3, "burn_in": 2}),
        ("terminate", TERMINATED, {"collector": "window", "window": 3, "burn_in": 2}),
    ],
    ids=["segment", "episode", "window", "window, terminated"],
)
def test_truncation_setting_decides_the_value_at_time_limits(truncation, value, collection):
    """Reward 1 per step, cut after 5 steps, no clock in the observation, gamma 0.9: 10 or 3.571."""
    cfg = load(
        {"name": "toys.constant", "options": {"length": 5}},
        "vdn",
        trainer={"truncation": truncation, "env_steps": 24_000, **collection},
        hparams={"target_period": 10},
        # Short windows may contain an end or not: a large batch fixes their number.
        replay={"batch_size": 240, "capacity": 1_920},
    )
    q = _initial_utilities(members.train(cfg))
    np.testing.assert_allclose(q, value, atol=0.1)


def test_no_value_leaks_across_episode_ends():
    """Episodes of constant reward 0 or 1, terminal after 2 steps: at gamma 0.9 no value exceeds
    1.9."""
    cfg = load(
        {"name": "toys.constant", "options": {"length": 2, "truncates": False, "kinds": 2}},
        "vdn",
        trainer={"window": 12},
    )
    trained = members.train(cfg)
    mean = trained.metrics.totals["train/target"]
    assert (mean[0] / mean[1] < 1.9).all()
    q = _initial_utilities(trained)
    # From one observation for both steps: the mean of 1 + 0.9 v and 1 is v = 1 / 0.55.
    np.testing.assert_allclose(q[:, 1], 1 / 0.55, atol=0.1)
    np.testing.assert_allclose(q[:, 0], 0.0, atol=0.1)


@pytest.mark.parametrize(
    ("name", "mixer", "options", "stays"),
    [
        ("td", "vdn", {}, False),
        ("td", "qplex", {"importance_layers": 1, "hypernet_embed": 8}, True),
        ("qtran", None, {"hidden": 16, "layers": 1}, True),
    ],
)
def test_values_of_the_two_state_mdp_stay_bounded_or_diverge(name, mixer, options, stays):
    """The best value is 100. Where the greedy value of A is v, the additive fit of its targets
    (1 + g v, g v, g v, 0) makes it 0.75 + 1.25 g v: with g = 0.99 that has no end."""
    env = mmdp.make(mmdp.Config())
    modules = [components.find("algorithms", name), mixer and components.find("mixers", mixer)]
    mixing = mixer and modules[1].make(modules[1].Config(**options), env.spec)
    made = tabular.algorithm(name, {} if mixer else options, env.spec, mixing)
    algo = {} if mixer else modules[0].Coefficients().model_dump()
    hparams = tabular.hparams(0.03, 4_000, target_period=10, algo=algo)
    batch = tabular.every_play(env, 2)

    def learn(key):
        params = tabular.learn(made, batch, hparams, 4_000, key)
        kinds = ["q_tot"] if mixer else ["q_tot", "q_joint"]
        points = env.game.decision_points
        return [tabular.tables(made, params, points, which) for which in kinds]

    for in_a, in_b in samples.jit(jax.vmap(learn))(jax.random.split(jax.random.key(0), 4)):
        size = np.abs(in_a).max(axis=(1, 2))
        if not stays:
            assert size.min() > 150.0
            continue
        assert size.max() < 150.0 and np.abs(in_b).max() < 150.0
        assert in_a[:, 0, 0].min() > 80.0, "and the optimum is nearly learnt"


def _initial_utilities(trained):
    """f32[P, kinds]: the single agent's utility of action 0 in each kind of episode."""
    from qmix_jax.agents import mlp

    agent = mlp.make(mlp.Config(hidden=32), trained.program.spec, 1)
    kinds = trained.program.spec.state_size
    obs = np.eye(kinds, dtype=np.float32)[None, :, None]
    shape = (1, kinds, 1)

    def utilities(params):
        none = np.full(shape, -1, np.int32)
        observed = samples.observed(obs, none, np.zeros((1, kinds), bool))
        return agent.unroll(params, (), observed)[1][0, :, 0, 0]

    return np.asarray(jax.vmap(utilities)(trained.parameters["agent"]))
