"""The PyTorch baseline computes what the package computes, and trains."""

import dataclasses
import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import components
from qmix_jax import learner as our_learner

torch = pytest.importorskip("torch", reason="needs the torch extra")

from benchmarks.pytorch import __main__ as command  # noqa: E402
from benchmarks.pytorch import (  # noqa: E402
    jax_envs,
    learner,
    networks,
    records,
    replay,
    rollout,
    spread,
    spread_worker,
    train,
)

CPU = torch.device("cpu")
KEY = jax.random.key(0)
LAYERS = (1, 2)
TINY = networks.Widths(hidden=8, embed_dim=4, hypernet_embed=6)
needs_spread = pytest.mark.skipif(
    spread_worker.library() is None, reason="needs pettingzoo[mpe] or mpe2: the torch extra"
)


@functools.cache
def problem(layers, double_q=True, optimiser=None):
    """(algorithm, params, target_params), random and small."""
    agent = samples.component("agents", "gru", {"hidden": 8})
    options = {"embed_dim": 4, "hypernet_layers": layers, "hypernet_embed": 6}
    mixer = samples.component("mixers", "qmix", options)
    made = samples.algorithm("td", {"double_q": double_q}, agent, mixer, optimiser=optimiser)
    return made, *(samples.params(made.init, seed) for seed in (0, 1))


@functools.cache
def loss_and_gradient(layers, double_q):
    made, _, _ = problem(layers, double_q)
    return jax.jit(jax.value_and_grad(samples.loss(made), has_aux=True))


def padded(seed=0):
    """(batch of the package, the same episodes): 3 to 7 steps, a termination, two time limits."""
    batch = samples.batch("episode", seed).replace(weight=np.ones(3, np.float32))
    return batch, episodes(batch.trajectory)


def episodes(trajectory):
    def tensor(name):
        values = torch.tensor(getattr(trajectory, name))
        return values.long() if name == "actions" else values

    names = (field.name for field in dataclasses.fields(records.Episodes))
    return records.Episodes(**{name: tensor(name) for name in names})


def config(**changes):
    """Values equal to those of `samples.hparams`."""
    values = {"gamma": 0.9, "td_lambda": 0.4, "reward_scale": 3.0, **changes}
    return learner.Config(**values)


def assert_trees_agree(actual, expected, rtol=1e-5):
    """Compares each leaf relative to its largest entry."""
    expected = jax.tree.map(np.asarray, expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * np.abs(e).max(), err_msg=where)


@pytest.mark.parametrize("layers", LAYERS)
def test_parameters_round_trip_through_pytorch(layers):
    _, params, _ = problem(layers)
    back = networks.to_jax(networks.from_jax(params), lambda parameter: parameter)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_initial_parameters_have_our_shapes_and_bounds():
    """Uniform within 1 / sqrt(inputs), the GRU's within 1 / sqrt(hidden)."""
    made, _, _ = problem(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks_ = networks.QMIX(records.Spec(2, 3, 4, 5, 7), TINY)
    initial = networks.to_jax(networks_, lambda parameter: parameter)
    assert samples.signature(initial) == samples.signature(jax.eval_shape(made.init, KEY))
    modules = {"gru": initial["agent"].pop("gru"), **initial["agent"]}
    modules |= {f"mixer {name}": module for name, module in initial["mixer"].items()}
    for name, module in modules.items():
        for layer in (module,) if "bias" in module else module.values():
            inputs = 8 if name == "gru" else len(layer["kernel"])
            values = np.concatenate([leaf.ravel() for leaf in layer.values()])
            assert 0.7 < np.abs(values).max() * inputs**0.5 <= 1.0, name


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("td_lambda", [0.0, 0.6])
def test_loss_and_gradient_equal_ours(layers, double_q, td_lambda):
    _, params, target_params = problem(layers, double_q)
    target = networks.from_jax(target_params)
    for seed in range(3):
        batch, same = padded(seed)
        (expected, _), gradient = loss_and_gradient(layers, double_q)(
            params, target_params, batch, samples.hparams(td_lambda=td_lambda)
        )
        online = networks.from_jax(params)
        loss = learner.td_loss(online, target, same, config(td_lambda=td_lambda, double_q=double_q))
        loss.backward()
        np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)
        assert_trees_agree(networks.to_jax(online, lambda parameter: parameter.grad), gradient)
    assert all(parameter.grad is None for parameter in target.parameters())


@pytest.mark.parametrize("td_lambda", [0.0, 0.6])
def test_contents_of_padding_change_nothing(td_lambda):
    _, params, target_params = problem(2)
    online, target = networks.from_jax(params), networks.from_jax(target_params)
    batch, _ = padded()
    results = []
    for trajectory in (batch, samples.with_other_invalid_contents(batch)):
        online.zero_grad()
        same = episodes(trajectory.trajectory)
        loss = learner.td_loss(online, target, same, config(td_lambda=td_lambda))
        loss.backward()
        gradient = networks.to_jax(online, lambda parameter: parameter.grad.clone())
        results.append({"loss": np.float32(loss.item()), "gradient": gradient})
    assert_trees_agree(*results)


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_gradient_steps_equal_ours(name):
    """Three steps with a target update at the second; the clip is so low that `eps` matters."""
    values = {"learning_rate": 0.01, "max_grad_norm": 1e-3, "target_period": 2}
    optimiser = our_learner.make_optimiser(name, eps=1e-5, beta1=0.9, beta2=0.999, decay=0.99)
    made, params, _ = problem(2, optimiser=optimiser)
    state = made.learner.init(params)
    update = jax.jit(made.learner.update)
    hparams = samples.hparams(**values)
    theirs = learner.Learner(networks.from_jax(params), config(optimiser=name, **values))
    for step in range(3):
        batch, same = padded(seed=step)
        state, metrics, _ = update(state, batch, hparams, samples.clock(step), KEY)
        loss = theirs.update(same)
        np.testing.assert_allclose(loss.item(), metrics["train/loss"][0], rtol=1e-4)
        for network, expected in (
            (theirs.online, state.params),
            (theirs.target, state.target_params),
        ):
            tree = networks.to_jax(network, lambda parameter: parameter)
            assert_trees_agree(tree, expected, rtol=1e-4)
    redundant = theirs.online.agent.gru.bias_hh_l0[:16]
    assert not redundant.any(), "the redundant bias is not trained"


def counting(n_envs=6):
    """Episodes of 1 to 5 steps that terminate or reach the time limit."""
    return jax_envs.make("toys.counting", {}, n_envs, seed=0, device=CPU)


def collected(epsilon, n_envs=6):
    envs = counting(n_envs)
    agent = networks.QMIX(envs.spec, TINY).agent
    return agent, rollout.collect(envs, agent, epsilon, torch.Generator().manual_seed(0))


def test_rollouts_are_padded_episodes():
    """The reward of step t is t + 1; observations are (episode, step)."""
    _, result = collected(epsilon=1.0)
    episodes = result.episodes
    lengths = episodes.valid.sum(dim=0)
    assert len(set(lengths.tolist())) > 1
    steps = torch.arange(5)[:, None]
    torch.testing.assert_close(episodes.valid, steps < lengths)
    torch.testing.assert_close(episodes.reward, torch.where(episodes.valid, steps + 1.0, 0.0))
    torch.testing.assert_close(result.metrics["return"], lengths * (lengths + 1) / 2)
    torch.testing.assert_close(result.metrics["last_step"], lengths.float())
    ends = episodes.terminated & episodes.valid
    assert not ends[: lengths.min() - 1].any()
    assert ends.any() and not ends.any(dim=0).all(), "both kinds of end occur"
    for column, length in enumerate(lengths):
        steps_seen = episodes.obs[: length + 1, column, :, 1]
        torch.testing.assert_close(steps_seen, torch.arange(length + 1.0)[:, None].expand(-1, 2))
        torch.testing.assert_close(
            episodes.obs[: length + 1, column, 0], episodes.state[: length + 1, column]
        )
    assert (result.env_steps, result.valid_env_steps) == (6 * lengths.max(), lengths.sum())


def test_acting_equals_the_learners_unroll():
    """Greedy actions of single steps equal those of one pass over the stored episodes."""
    agent, result = collected(epsilon=0.0)
    episodes = result.episodes
    prev_actions = torch.cat([torch.full_like(episodes.actions[:1], -1), episodes.actions])
    x = networks.features(episodes.obs, prev_actions, n_actions=3)
    q = agent(x)[0].view(6, 6, 2, 3)[:-1]
    expected = learner.greedy(q, episodes.avail_actions[:-1])
    assert (episodes.actions == expected)[episodes.valid].all()
    assert len(expected[episodes.valid].unique()) > 1


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_exploration_is_uniform_over_available_actions(epsilon):
    agent, result = collected(epsilon, n_envs=2_000)
    episodes = result.episodes
    first = episodes.actions[0].flatten()
    assert episodes.avail_actions[:-1].gather(-1, episodes.actions[..., None])[episodes.valid].all()
    x = networks.features(episodes.obs[:1], torch.full_like(episodes.actions[:1], -1), n_actions=3)
    greedy = learner.greedy(agent(x)[0].view(1, 2_000, 2, 3), episodes.avail_actions[:1])
    # One of two available actions is the greedy one; the two agents explore independently.
    explored = (first != greedy.flatten()).view(2_000, 2)
    np.testing.assert_allclose(explored.float().mean(), epsilon / 2, atol=0.03)
    np.testing.assert_allclose(explored.all(dim=1).float().mean(), epsilon**2 / 4, atol=0.03)


def test_replay_keeps_the_newest_episodes_and_cuts_batches_to_the_longest():
    spec = records.Spec(n_agents=1, n_actions=2, obs_size=1, state_size=1, max_steps=4)
    ring = replay.Replay(spec, capacity=4, device=CPU)
    generator = torch.Generator().manual_seed(0)
    for first in (0, 2, 4):
        two = records.empty_episodes(spec, 2, CPU)
        two.valid[:2] = True
        two.valid[2, 1] = first == 0
        two.reward[:] = torch.tensor([first, first + 1.0])
        two.obs[:] = two.reward[:1, :, None, None]
        ring.add(two)
        if first == 0:
            assert set(ring.sample(64, generator).reward[0].tolist()) == {0.0, 1.0}
    batch = ring.sample(256, generator)
    drawn, counts = batch.reward[0].unique(return_counts=True)
    assert drawn.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert counts.min() > 40
    assert (batch.actions.shape, batch.obs.shape) == ((2, 256, 1), (3, 256, 1, 1))
    torch.testing.assert_close(batch.obs[0, :, 0, 0], batch.reward[0])


SETTINGS = train.Settings(
    env_steps=400,
    warm_up=64,
    n_envs=4,
    n_workers=2,
    gradient_steps=2,
    batch_size=8,
    capacity=16,
    epsilon_steps=200,
    eval_every=100,
    eval_episodes=8,
    widths=TINY,
)


def check_result(result, settings, max_steps):
    per_update = settings.n_envs * max_steps
    assert settings.env_steps <= result["env_steps"] < settings.env_steps + per_update
    assert 0 < result["valid_env_steps"] <= result["env_steps"]
    assert result["gradient_steps"] > 0
    assert result["warm_up"]["env_steps"] >= settings.warm_up
    parts = result["rollout_seconds"] + result["update_seconds"]
    assert 0 < result["warm_up"]["seconds"] < parts <= result["seconds"]
    steps, returns = zip(*result["curve"], strict=True)
    assert steps[0] == 0 and steps[-1] == result["env_steps"]
    assert np.isfinite(returns).all()


def test_the_arithmetic_of_a_run(monkeypatch):
    """Episodes of exactly 2 steps in 4 environments: 8 env steps per update. 64 of warm-up, then
    two gradient steps per update; evaluations at 0, 100, 200 and 300 or later, and at the end.
    Without a warm-up, two updates fill the first batch."""
    epsilons = []
    collect = rollout.collect

    def recorded(envs, agent, epsilon, generator):
        epsilons.append(epsilon)
        return collect(envs, agent, epsilon, generator)

    monkeypatch.setattr(rollout, "collect", recorded)
    envs = jax_envs.make("two_step", {}, 4, seed=0, device=CPU)
    result = train.train(SETTINGS, envs)
    check_result(result, SETTINGS, max_steps=2)
    assert (result["env_steps"], result["valid_env_steps"]) == (400, 400)
    assert result["warm_up"]["env_steps"] == 64
    assert result["gradient_steps"] == 2 * (400 - 64) / 8
    assert [steps for steps, _ in result["curve"]] == [0, 104, 200, 304, 400]
    exploring = [epsilon for epsilon in epsilons if epsilon > 0]
    assert epsilons[:2] == [0.0, 0.0] and len(epsilons) == 50 + 5 * 2
    expected = 1.0 - 0.95 * np.minimum(np.arange(50) * 8 / 200, 1.0)
    np.testing.assert_allclose(exploring, expected)
    eager = train.train(replace(SETTINGS, warm_up=0), envs)
    assert (eager["warm_up"]["env_steps"], eager["gradient_steps"]) == (16, 2 * (400 - 16) / 8)


def test_the_two_step_game_is_learnt():
    """The optimum 8 needs a mixer that is not additive, and a bootstrap through the first step."""
    settings = replace(
        SETTINGS,
        env_steps=6_000,
        n_envs=8,
        batch_size=32,
        capacity=800,
        epsilon_end=1.0,
        eval_every=6_000,
        widths=networks.Widths(hidden=16, embed_dim=8, hypernet_layers=1),
        learner=learner.Config(optimiser="adam", learning_rate=3e-3, target_period=50),
    )
    envs = jax_envs.make("two_step", {}, 8, seed=0, device=CPU)
    result = train.train(settings, envs)
    assert result["curve"][-1][1] == 8.0


@pytest.mark.slow
def test_smax_trains():
    result = train.run(replace(SETTINGS, env="smax", env_steps=1_000))
    check_result(result, replace(SETTINGS, env_steps=1_000), max_steps=101)
    assert result["valid_env_steps"] < result["env_steps"]
    assert all(0.0 <= row["win_rate"] <= 1.0 for row in result["evaluations"])
    assert all(0.0 <= returned <= 2.0 + 1e-4 for _, returned in result["curve"])
    assert result["start_seconds"] > 0


@pytest.mark.slow
@needs_spread
def test_spread_trains():
    settings = replace(SETTINGS, env_steps=800)
    result = train.run(settings)
    check_result(result, settings, max_steps=25)
    assert result["valid_env_steps"] == result["env_steps"]
    assert all(returned < 0 for _, returned in result["curve"])


@pytest.mark.slow
@needs_spread
def test_spread_equals_pettingzoos_and_jaxmarls():
    """Two workers agree with PettingZoo in this process, also after the end, and with JaxMARL from
    the same initial positions."""
    envs = spread.make(n_envs=2, n_workers=2, seed=3, max_cycles=25)
    try:
        check_against_references(envs)
    finally:
        envs.close()


def check_against_references(envs):
    references = [
        spread_worker.make_env(spread_worker.Share(0, 2, 3, 25), column) for column in range(2)
    ]
    rng = np.random.default_rng(0)
    for _ in range(2):
        obs = [env.reset()[0] for env in references]
        timestep = envs.reset()
        jaxmarl = JaxSpread([env.unwrapped.world for env in references])
        for t in range(25):
            stacked = np.stack([list(o.values()) for o in obs])
            np.testing.assert_array_equal(timestep.obs, stacked)
            np.testing.assert_array_equal(timestep.state, stacked.reshape(2, -1))
            actions = rng.integers(5, size=(2, 3))
            outcomes = [
                env.step(dict(zip(env.agents, row.tolist(), strict=True)))
                for env, row in zip(references, actions, strict=True)
            ]
            obs = [outcome[0] for outcome in outcomes]
            rewards = [sum(outcome[1].values()) for outcome in outcomes]
            timestep = envs.step(torch.tensor(actions))
            np.testing.assert_allclose(timestep.reward, rewards, rtol=1e-6)
            assert timestep.truncated.tolist() == [t == 24] * 2
            assert not timestep.terminated.any() and timestep.avail_actions.all()
            jaxmarl.check(actions, timestep)
        last = [timestep.obs.clone(), timestep.reward.clone()]
        again = envs.step(torch.zeros(2, 3, dtype=torch.int64))
        assert torch.equal(again.obs, last[0]) and torch.equal(again.reward, last[1])


class JaxSpread:
    """The package's simple_spread with the positions of PettingZoo's entities."""

    def __init__(self, worlds):
        env = components.find("envs", "jaxmarl")
        made = env.make(env.Config(id="MPE_simple_spread_v3"))
        places = [[e.state.p_pos for e in (*w.agents, *w.landmarks)] for w in worlds]
        states, _ = jax.vmap(made.reset)(jax.random.split(KEY, len(worlds)))
        self._states = states.replace(p_pos=jnp.array(places, jnp.float32))
        self._step = jax.jit(jax.vmap(made.step))
        self._keys = jax.random.split(KEY, len(worlds))

    def check(self, actions, expected):
        self._states, timestep = self._step(self._keys, self._states, jnp.array(actions))
        np.testing.assert_allclose(timestep.obs, expected.obs, atol=1e-3)
        reward = timestep.reward.sum(axis=-1)
        np.testing.assert_allclose(reward, expected.reward, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_workers": 3}, "n_envs=4 is not a positive multiple of n_workers=3"),
        ({"capacity": 10}, "capacity=10 is not a positive multiple of n_envs=4"),
        ({"eval_episodes": 6}, "eval_episodes=6 is not a positive multiple of n_envs=4"),
        ({"batch_size": 32}, "batch_size=32 exceeds capacity=16"),
    ],
)
def test_contradictory_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def test_the_command_line_reads_settings_and_refuses_invalid_ones_in_one_line(capsys):
    arguments = ["env=smax", "env_steps=50_000", "learner.learning_rate=1e-3", "widths.hidden=8"]
    settings = command.settings(arguments)
    assert (settings.env, settings.env_steps, settings.widths.hidden) == ("smax", 50_000, 8)
    assert settings.learner.learning_rate == 1e-3
    assert command.settings(['{"env": "smax"}', "seed=3"]) == train.Settings(env="smax", seed=3)
    for wrong in ("steps=3", "learner.lr=1", "capacity=10", "smax", "runner.x=1"):
        assert command.main([wrong]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert captured.out == ""
