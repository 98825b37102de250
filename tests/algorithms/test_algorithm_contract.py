"""The algorithm contract, for every algorithm and every mixer that it accepts."""

import dataclasses
import functools
import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import components
from qmix_jax.types import Observed, Schedule

SPEC = samples.SPEC
N, A = SPEC.n_agents, SPEC.actions.width


CASES = {
    "-".join((name, *options.values())): (name, options)
    for name in components.names("algorithms")
    for options in samples.VARIANTS.get(name, ({},))
}
"""Label -> name and options; a module may be several algorithms."""


def _combinations():
    """Every algorithm without a mixer if it takes none, `td` with every mixer, and any other
    with one."""
    agent = samples.component("agents", "mlp")
    for case, (name, options) in CASES.items():
        for mixer in (None, *(components.names("mixers") if name == "td" else ("qmix",))):
            mixing = mixer and samples.component("mixers", mixer)
            try:
                samples.algorithm(name, options, agent, mixing)
            except ValueError:
                continue
            yield case, mixer


COMBINATIONS = tuple(_combinations())
combinations = pytest.mark.parametrize(("name", "mixer"), COMBINATIONS)
# Properties that no mixer affects (acting, time) are tested once per algorithm.
once_each = pytest.mark.parametrize(("name", "mixer"), tuple(dict(reversed(COMBINATIONS)).items()))
forms = pytest.mark.parametrize("form", samples.FORMS)
KEY = jax.random.key(3)


@functools.cache
def algorithm_case(case, mixer):
    """(algorithm, params, target_params, jitted value and gradient of the loss)."""
    agent = samples.component("agents", "gru", {"hidden": 8})
    mixing = mixer and samples.component("mixers", mixer)
    name, options = CASES[case]
    algo = samples.algorithm(name, options, agent, mixing)
    params, target_params = (samples.params(algo.init, seed) for seed in (0, 1))
    target_params = samples.targets(algo, target_params)
    loss = samples.loss(algo)
    return algo, params, target_params, samples.jit(jax.value_and_grad(loss, has_aux=True))


def test_every_component_is_covered():
    assert {name for name, _ in COMBINATIONS} == set(CASES)
    assert {mixer for _, mixer in COMBINATIONS} == {None, *components.names("mixers")}


@combinations
@forms
def test_loss_shapes_dtypes_and_finite_gradients(name, mixer, form):
    _, params, target_params, loss_and_gradient = algorithm_case(name, mixer)
    batch = samples.batch(form)
    (loss, extras), gradient = loss_and_gradient(params, target_params, batch, samples.hparams())
    assert samples.signature((loss, extras.priority)) == (((), jnp.float32), ((3,), jnp.float32))
    scalar = ((), jnp.float32)
    assert {"loss", "td_error_abs", "q_taken", "target"} <= set(extras.metrics)
    assert all(samples.signature(pair) == (scalar, scalar) for pair in extras.metrics.values())
    assert samples.signature(gradient) == samples.signature(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, extras, gradient)))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@combinations
@forms
def test_contents_of_invalid_steps_change_nothing(name, mixer, form):
    _, params, target_params, loss_and_gradient = algorithm_case(name, mixer)
    batch, hparams = samples.batch(form), samples.hparams()
    original = loss_and_gradient(params, target_params, batch, hparams)
    for seed in (1, 2):
        other = samples.with_other_invalid_contents(batch, seed)
        changed = loss_and_gradient(params, target_params, other, hparams)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), changed, original
        )


@combinations
def test_contents_of_valid_steps_change_the_loss(name, mixer):
    """Observations, rewards, terminations and validity each enter the loss."""
    _, params, target_params, loss_and_gradient = algorithm_case(name, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams()
    (loss, _), _ = loss_and_gradient(params, target_params, batch, hparams)
    old = batch.trajectory
    changes = {"obs": old.obs + 1.0, "reward": old.reward + 1.0, "valid": ~old.valid}
    for field, values in {**changes, "terminated": ~old.terminated}.items():
        other = batch.replace(trajectory=old.replace(**{field: values}))
        (changed, _), _ = loss_and_gradient(params, target_params, other, hparams)
        assert abs(changed - loss) > 1e-3 * loss, field


@combinations
def test_without_valid_steps_loss_and_gradient_are_zero(name, mixer):
    _, params, target_params, loss_and_gradient = algorithm_case(name, mixer)
    batch = samples.batch("episode")
    none = batch.replace(
        trajectory=batch.trajectory.replace(valid=np.zeros_like(batch.trajectory.valid))
    )
    (loss, extras), gradient = loss_and_gradient(params, target_params, none, samples.hparams())
    assert float(loss) == 0.0
    np.testing.assert_array_equal(extras.priority, 0.0)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0.0)


@once_each
def test_joined_episodes_are_separate_episodes(name, mixer):
    """The loss of a sequence of three episodes is that of the three separate episodes."""
    _, params, target_params, loss_and_gradient = algorithm_case(name, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams()

    def part(start, end):
        """The batch with only these steps of the first sequence valid, moved to the front."""
        moved = {
            field: np.roll(values, -start, axis=0)
            for field, values in batch.trajectory.items()
            if hasattr(values, "shape")
        }
        valid = moved["valid"]
        selected = (np.arange(len(valid)) < end - start)[:, None] & (np.arange(valid.shape[1]) == 0)
        return batch.replace(
            trajectory=batch.trajectory.replace(**moved).replace(valid=valid & selected)
        )

    def metrics(start, end):
        return loss_and_gradient(params, target_params, part(start, end), hparams)[0][1].metrics

    joined = metrics(0, 7)
    pieces = [metrics(start, end) for start, end in ((0, 3), (3, 5), (6, 7))]
    for metric in ("td_error_abs", "q_taken", "target"):
        total = np.sum([piece[metric] for piece in pieces], axis=0)
        np.testing.assert_allclose(joined[metric], total, rtol=1e-4, err_msg=metric)


@combinations
def test_the_priority_of_a_sequence_depends_on_that_sequence_only(name, mixer):
    _, params, target_params, loss_and_gradient = algorithm_case(name, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams()
    (_, before), _ = loss_and_gradient(params, target_params, batch, hparams)
    reward = batch.trajectory.reward.copy()
    reward[:, 1] += 100.0
    other = batch.replace(trajectory=batch.trajectory.replace(reward=reward))
    (_, after), _ = loss_and_gradient(params, target_params, other, hparams)
    np.testing.assert_array_equal(after.priority[::2], before.priority[::2])
    assert after.priority[1] > before.priority[1] + 100.0


@combinations
def test_no_gradient_reaches_the_target_parameters(name, mixer):
    algo, params, target_params, _ = algorithm_case(name, mixer)

    def value(target_params):
        batch = samples.batch("segment")
        return samples.loss(algo)(params, target_params, batch, samples.hparams())[0]

    for leaf in jax.tree.leaves(samples.jit(jax.grad(value))(target_params)):
        np.testing.assert_array_equal(leaf, 0.0)


def crowd(seed=0, b=300):
    """Inputs of `b` environments."""
    rng = np.random.default_rng(seed)
    return samples.observed(
        3.0 * samples.normal(rng, b, N, *SPEC.obs_shape),
        rng.integers(-1, A, (b, N)).astype(np.int32),
        rng.random(b) < 0.5,
        samples.random_avail(rng, (b,)),
    )


def exploring(epsilon):
    return {"epsilon": jnp.float32(epsilon)}


@once_each
def test_act_takes_no_state(name, mixer):
    algo = algorithm_case(name, mixer)[0]
    names = list(inspect.signature(algo.act).parameters)
    assert len(names) == 5 and "state" not in names
    assert "state" not in {field.name for field in dataclasses.fields(Observed)}


@once_each
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_acting_is_decentralised(name, mixer, epsilon):
    """If all inputs of the second agent change, the first acts the same, also when exploring."""
    algo, params, *_ = algorithm_case(name, mixer)
    act, explore = samples.jit(algo.act), exploring(epsilon)
    observed, other = crowd(), crowd(seed=1)
    carry = samples.live_carry(algo, len(observed.reset))["act"]
    actions = act(params, carry, observed, explore, KEY)[1]
    second = np.array([False, True])
    changed = replace(
        observed,
        obs=np.where(second[:, None], other.obs, observed.obs),
        prev_actions=np.where(second, other.prev_actions, observed.prev_actions),
        avail_actions=np.where(second[:, None], other.avail_actions, observed.avail_actions),
    )
    others = act(params, carry, changed, explore, KEY)[1]
    np.testing.assert_array_equal(others[:, 0], actions[:, 0])
    assert (np.asarray(others[:, 1] != actions[:, 1])).any()


@once_each
def test_unavailable_actions_are_never_taken(name, mixer):
    algo, params, *_ = algorithm_case(name, mixer)
    act, seen = samples.jit(algo.act), crowd()
    avail = seen.avail_actions
    assert not avail.all(axis=-1).any(axis=0).all()
    carry = algo.initial_carry(len(avail))["act"]
    for epsilon in (0.0, 0.5, 1.0):
        _, actions, behaviour = act(params, carry, seen, exploring(epsilon), KEY)
        assert (actions.shape, actions.dtype) == ((300, N), jnp.int32)
        assert behaviour == {}, "Q-learning stores no behaviour"
        assert np.take_along_axis(avail, np.asarray(actions)[..., None], axis=-1).all()


@once_each
def test_greedy_acting_maximises_the_utilities(name, mixer):
    """At the start of an episode, regardless of carry and previous action; `inspect` returns the
    utilities that `act` maximises."""
    algo, params, *_ = algorithm_case(name, mixer)
    observed = crowd(b=20)
    start = replace(observed, reset=np.ones(20, bool), prev_actions=np.full((20, N), -1, np.int32))
    carry = samples.live_carry(algo, 20)["act"]
    actions = samples.jit(algo.act)(params, carry, start, algo.greedy, KEY)[1]
    joint = np.array([[A - 1, A - 1]])
    inspect_one = lambda obs: samples.at_start(  # noqa: E731
        algo, params, obs, jnp.zeros(SPEC.state_size), joint
    )["utilities"][0]
    q = samples.jit(jax.vmap(inspect_one))(start.obs)
    best = np.argmax(np.where(start.avail_actions, q, -np.inf), axis=-1)
    np.testing.assert_array_equal(actions, best)


@once_each
def test_exploration_follows_the_clock_and_greedy_has_the_same_form(name, mixer):
    algo, *_ = algorithm_case(name, mixer)
    epsilon = Schedule(start=jnp.float32(1.0), end=jnp.float32(0.0), steps=jnp.float32(100.0))
    clock = replace(samples.CLOCK, env_steps=jnp.float32(25.0))
    explored = algo.exploration(samples.hparams(epsilon=epsilon), clock)
    assert samples.signature(explored) == samples.signature(dict(algo.greedy))
    np.testing.assert_allclose(explored["epsilon"], 0.75)
    assert float(algo.greedy["epsilon"]) == 0.0


@combinations
def test_inspected_arrays_have_the_documented_axes(name, mixer):
    algo, params, *_ = algorithm_case(name, mixer)
    trajectory = samples.batch("segment").trajectory
    inspected = jax.eval_shape(algo.inspect, params, trajectory)
    t, b = trajectory.valid.shape
    assert inspected["utilities"].shape == (t, b, N, A)
    assert all(values.shape[:2] == (t, b) for values in inspected.values())
    assert ("q_tot" in inspected) == (name != "iql")
    assert inspected.get("q_tot", trajectory.reward).shape == (t, b)
