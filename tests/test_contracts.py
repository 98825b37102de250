"""What every agent, mixer and factorisation promises, over every one that ships."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ranks
import samples

from qmix_jax import components
from qmix_jax.mixers import base as mixers

strict = ranks.strict

SPEC = samples.SPEC
N, A = SPEC.n_agents, SPEC.n_actions_max
AGENTS = components.names("agents")

# Variants whose arithmetic differs; a component that is not named is tried as it comes.
AGENT_OPTIONS = {"mlp": {"last_action": True}}
MIXER_OPTIONS = {
    "qmix": (
        {"hypernet_layers": 1},
        {"hypernet_layers": 2},
        {"weight": "softplus"},
        {"weight": "square"},
    )
}
MIXERS = tuple(
    (name, tuple(options.items()))
    for name in components.names("mixers")
    for options in MIXER_OPTIONS.get(name, ({},))
)


def make(kind, name, options=(), *context):
    module = components.find(kind, name)
    return module.make(module.Config.model_validate(dict(options)), SPEC, *context)


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# ---------------------------------------------------------------------------------------- agents


@functools.cache
def agent_case(name):
    """(agent, params, jitted unroll)."""
    agent = make("agents", name, AGENT_OPTIONS.get(name, {}))
    return agent, samples.params(agent.init), jax.jit(agent.unroll)


def history(seed=0, t=7, b=3):
    """(obs, prev_actions, reset) of live streams: episodes begin anywhere but at first."""
    rng = np.random.default_rng(seed)
    reset = rng.random((t, b)) < 0.25
    reset[0] = False
    prev_actions = rng.integers(0, A, (t, b, N)).astype(np.int32)
    return samples.normal(rng, t, b, N, *SPEC.obs_shape), prev_actions, reset


def live_carry(agent, b=3):
    """A carry in the middle of an episode."""
    return jax.tree.map(lambda x: 0.3 * jnp.ones_like(x), agent.initial_carry(b))


def signature(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("name", AGENTS)
def test_agent_shapes_and_dtypes(name):
    agent, params, unroll = agent_case(name)
    carry, q, hidden = unroll(params, agent.initial_carry(3), *history())
    assert (q.shape, q.dtype) == ((7, 3, N, A), jnp.float32)
    assert (hidden.shape[:3], hidden.dtype) == ((7, 3, N), jnp.float32)
    assert signature(carry) == signature(agent.initial_carry(3))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", AGENTS)
def test_agent_acting_is_a_slice_of_learning(name):
    """Steps of T = 1 with the carry handed on are the unroll of T = 7."""
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    carry = live_carry(agent)
    last, q, _ = unroll(params, carry, obs, prev_actions, reset)
    for t in range(7):
        step = slice(t, t + 1)
        carry, q_t, _ = unroll(params, carry, obs[step], prev_actions[step], reset[step])
        np.testing.assert_allclose(q_t[0], q[t], rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), carry, last)


@pytest.mark.parametrize("name", AGENTS)
def test_agent_sequences_do_not_mix(name):
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    for b in range(3):
        one = slice(b, b + 1)
        alone = unroll(
            params, agent.initial_carry(1), obs[:, one], prev_actions[:, one], reset[:, one]
        )[1]
        np.testing.assert_allclose(alone[:, 0], q[:, b], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", AGENTS)
def test_agent_utilities_are_decentralised(name):
    """Other observations and actions of the second agent change nothing for the first."""
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    second = np.array([False, True])
    obs = np.where(second[:, None], obs + 3.0, obs)
    prev_actions = np.where(second, (prev_actions + 1) % A, prev_actions)
    other = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    np.testing.assert_array_equal(other[:, :, 0], q[:, :, 0])
    assert (np.asarray(other[:, :, 1] != q[:, :, 1])).all()


@pytest.mark.parametrize("name", AGENTS)
def test_agent_forgets_what_came_before_an_episode(name):
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    start = np.arange(7) == 4
    reset = np.broadcast_to(start[:, None], reset.shape)
    prev_actions = np.where(start[:, None, None], -1, prev_actions)
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    before = (np.arange(7) < 4)[:, None, None]
    obs = np.where(before[..., None], obs + 3.0, obs)
    prev_actions = np.where(before, (prev_actions + 1) % A, prev_actions)
    other = unroll(params, live_carry(agent), obs, prev_actions, reset)[1]
    np.testing.assert_array_equal(other[4:], q[4:])
    assert (np.asarray(other[:4] != q[:4])).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", AGENTS)
def test_agent_tells_no_last_action_from_any_action(name):
    """-1 is none of the actions: its utilities differ from every action's."""
    agent, params, unroll = agent_case(name)
    obs, _, reset = history(t=1)
    values = [
        unroll(params, agent.initial_carry(3), obs, np.full((1, 3, N), action, np.int32), reset)[1]
        for action in range(-1, A)
    ]
    for one, other in itertools.combinations(values, 2):
        assert not np.allclose(one, other)


@pytest.mark.parametrize("name", AGENTS)
def test_agent_gradients_are_finite_and_reach_every_parameter(name):
    agent, params, _ = agent_case(name)

    def objective(params):
        return jnp.sum(agent.unroll(params, agent.initial_carry(3), *history())[1] ** 2)

    gradient = jax.jit(jax.grad(objective))(params)
    assert all_finite(gradient)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


# ---------------------------------------------------------------------------------------- mixers


@functools.cache
def mixer_case(name, options):
    """(mixer, params, jitted output for (params, q, state) whose best actions are the taken)."""
    mixer = make("mixers", name, options)

    def apply(params, q, state):
        actions = jnp.zeros((*q.shape, A))
        inputs = mixers.MixerInputs(q_taken=q, q_greedy=q, actions=actions, state=state)
        return mixer.apply(params, inputs)

    return mixer, samples.params(mixer.init), jax.jit(apply)


def situations(*leading, seed=0):
    """(q[..., N], state[..., S]), utilities of both signs."""
    rng = np.random.default_rng(seed)
    return 3.0 * samples.normal(rng, *leading, N), samples.normal(rng, *leading, SPEC.state_size)


mixer_variants = pytest.mark.parametrize(("name", "options"), MIXERS)
monotonic_variants = pytest.mark.parametrize(
    ("name", "options"), [case for case in MIXERS if make("mixers", *case).monotonic]
)


@mixer_variants
def test_mixer_takes_any_leading_axes(name, options):
    _, params, apply = mixer_case(name, options)
    q, state = situations(4, 3)
    out = apply(params, q, state)
    assert signature((out.q_tot, out.penalty)) == (((4, 3), jnp.float32),) * 2
    for t, b in np.ndindex(4, 3):
        alone = apply(params, q[t, b], state[t, b])
        assert alone.q_tot.shape == alone.penalty.shape == ()
        np.testing.assert_allclose(out.q_tot[t, b], alone.q_tot, rtol=1e-4, atol=1e-4)


@monotonic_variants
def test_mixer_is_monotonic_where_it_says_so(name, options):
    mixer, _, apply = mixer_case(name, options)
    by_q = jax.jit(jax.grad(lambda *args: jnp.sum(apply(*args).q_tot), argnums=1))
    for seed in range(3):
        params = samples.params(mixer.init, seed)
        slopes = np.asarray(by_q(params, *situations(200, seed=seed)))
        assert slopes.min() >= 0.0 and slopes.max() > 0.0


@monotonic_variants
def test_mixer_joint_argmax_is_the_tuple_of_argmaxes(name, options):
    """Individual-global-max, by brute force over all joint actions of 50 situations."""
    _, params, apply = mixer_case(name, options)
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 50, N, A), samples.normal(rng, 50, SPEC.state_size)
    actions = np.array(list(itertools.product(range(A), repeat=N)))
    taken = q[:, np.arange(N), actions]
    states = np.repeat(state[:, None], len(actions), axis=1)
    table = np.asarray(apply(params, taken, states).q_tot)
    greedy = (actions == np.argmax(q, axis=-1)[:, None]).all(axis=-1)
    np.testing.assert_allclose(table[greedy], table.max(axis=1), rtol=1e-5, atol=1e-5)
    assert (table.max(axis=1) > table.min(axis=1)).all()


@mixer_variants
def test_mixer_gradients_are_finite_and_reach_every_parameter(name, options):
    _, params, apply = mixer_case(name, options)
    gradient = jax.jit(jax.grad(lambda *args: jnp.sum(apply(*args).q_tot)))
    leaves = jax.tree.leaves(gradient(params, *situations(20)))
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in leaves)


# -------------------------------------------------------------------------------- factorisations


def _combinations():
    """Every factorisation with every mixer that it takes, and without one if it takes none."""
    agent = make("agents", "mlp")
    for name in components.names("factorisations"):
        for mixer in (None, *components.names("mixers")):
            try:
                make("factorisations", name, (), agent, mixer and make("mixers", mixer))
            except ValueError:
                continue
            yield name, mixer


COMBINATIONS = tuple(_combinations())
combinations = pytest.mark.parametrize(("name", "mixer"), COMBINATIONS)
forms = pytest.mark.parametrize("form", samples.FORMS)
KEY = jax.random.key(3)


@functools.cache
def factorisation_case(name, mixer):
    """(factorisation, params, target_params, jitted value and gradient of the loss)."""
    mixing = None if mixer is None else make("mixers", mixer)
    made = make("factorisations", name, (), make("agents", "gru", {"hidden": 8}), mixing)
    params, target_params = (samples.params(made.init, seed) for seed in (0, 1))
    target_params = target_params if made.uses_target else ()
    return made, params, target_params, jax.jit(jax.value_and_grad(made.loss, has_aux=True))


def test_every_component_is_tried():
    assert {name for name, _ in COMBINATIONS} == set(components.names("factorisations"))
    assert {mixer for _, mixer in COMBINATIONS} == {None, *components.names("mixers")}


@combinations
@forms
def test_loss_shapes_dtypes_and_finite_gradients(name, mixer, form):
    _, params, target_params, loss_and_gradient = factorisation_case(name, mixer)
    batch = samples.batch(form)
    (loss, extras), gradient = loss_and_gradient(
        params, target_params, batch, samples.hparams(), KEY
    )
    assert signature((loss, extras.priority)) == (((), jnp.float32), ((3,), jnp.float32))
    scalar = ((), jnp.float32)
    assert {"loss", "td_error_abs", "q_taken", "target"} <= set(extras.metrics)
    assert all(signature(pair) == (scalar, scalar) for pair in extras.metrics.values())
    assert signature(gradient) == signature(params)
    assert all_finite((loss, extras, gradient))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@combinations
@forms
def test_contents_of_invalid_steps_change_nothing(name, mixer, form):
    _, params, target_params, loss_and_gradient = factorisation_case(name, mixer)
    batch, hparams = samples.batch(form), samples.hparams()
    original = loss_and_gradient(params, target_params, batch, hparams, KEY)
    for seed in (1, 2):
        other = samples.with_other_invalid_contents(batch, seed)
        changed = loss_and_gradient(params, target_params, other, hparams, KEY)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), changed, original
        )


@combinations
def test_contents_of_valid_steps_do_matter(name, mixer):
    """Observations, rewards, terminations and validity each enter the loss."""
    _, params, target_params, loss_and_gradient = factorisation_case(name, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams()
    (loss, _), _ = loss_and_gradient(params, target_params, batch, hparams, KEY)
    old = batch.trajectory
    changes = {"obs": old.obs + 1.0, "reward": old.reward + 1.0, "valid": ~old.valid}
    for field, values in {**changes, "terminated": ~old.terminated}.items():
        other = batch.replace(trajectory=old.replace(**{field: values}))
        (changed, _), _ = loss_and_gradient(params, target_params, other, hparams, KEY)
        assert abs(changed - loss) > 1e-3 * loss, field


@combinations
def test_nothing_valid_is_no_loss_and_no_gradient(name, mixer):
    _, params, target_params, loss_and_gradient = factorisation_case(name, mixer)
    batch = samples.batch("episode")
    none = batch.replace(
        trajectory=batch.trajectory.replace(valid=np.zeros_like(batch.trajectory.valid))
    )
    (loss, extras), gradient = loss_and_gradient(
        params, target_params, none, samples.hparams(), KEY
    )
    assert float(loss) == 0.0
    np.testing.assert_array_equal(extras.priority, 0.0)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0.0)


@combinations
def test_joined_episodes_are_separate_episodes(name, mixer):
    """A sequence of three episodes costs what the three cost on their own."""
    made, params, target_params, _ = factorisation_case(name, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams()

    def part(sequence, start, end):
        entries = ("obs", "state", "avail_actions", "reset")
        fields = {
            field: values[start : end + (field in entries), sequence : sequence + 1]
            for field, values in batch.trajectory.items()
        }
        return batch.replace(
            trajectory=batch.trajectory.replace(**fields), weight=np.ones(1), index=np.zeros(1)
        )

    loss = jax.jit(made.loss)
    joined = loss(params, target_params, part(0, 0, 7), hparams, KEY)[1].metrics
    pieces = [
        loss(params, target_params, part(0, start, end), hparams, KEY)[1].metrics
        for start, end in ((0, 3), (3, 5), (5, 7))
    ]
    for metric in ("td_error_abs", "q_taken", "target"):
        total = np.sum([piece[metric] for piece in pieces], axis=0)
        np.testing.assert_allclose(joined[metric], total, rtol=1e-4, err_msg=metric)


@combinations
def test_priority_is_its_own_sequences(name, mixer):
    _, params, target_params, loss_and_gradient = factorisation_case(name, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams()
    (_, before), _ = loss_and_gradient(params, target_params, batch, hparams, KEY)
    reward = batch.trajectory.reward.copy()
    reward[:, 1] += 100.0
    other = batch.replace(trajectory=batch.trajectory.replace(reward=reward))
    (_, after), _ = loss_and_gradient(params, target_params, other, hparams, KEY)
    np.testing.assert_array_equal(after.priority[::2], before.priority[::2])
    assert after.priority[1] > before.priority[1] + 100.0


@combinations
def test_no_gradient_reaches_the_target_parameters(name, mixer):
    made, params, target_params, _ = factorisation_case(name, mixer)

    def value(target_params):
        return made.loss(params, target_params, samples.batch("segment"), samples.hparams(), KEY)[0]

    for leaf in jax.tree.leaves(jax.jit(jax.grad(value))(target_params)):
        np.testing.assert_array_equal(leaf, 0.0)


# ---------------------------------------------------------------------------------------- acting


def crowd(seed=0, b=300):
    """(obs, prev_actions, reset, avail_actions) of many situations."""
    rng = np.random.default_rng(seed)
    return (
        3.0 * samples.normal(rng, b, N, *SPEC.obs_shape),
        rng.integers(-1, A, (b, N)).astype(np.int32),
        rng.random(b) < 0.5,
        samples.random_avail(rng, (b,)),
    )


@combinations
def test_acting_takes_no_state(name, mixer):
    made = factorisation_case(name, mixer)[0]
    names = list(inspect.signature(made.act).parameters)
    expected = "params carry obs prev_actions reset avail_actions epsilon key"
    assert names == expected.split()


@combinations
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_acting_is_decentralised(name, mixer, epsilon):
    """Everything about the second agent changes; the first does the same, also when exploring."""
    made, params, *_ = factorisation_case(name, mixer)
    act = jax.jit(made.act)
    obs, prev_actions, reset, avail = crowd()
    carry = live_carry(made, len(obs))
    _, actions = act(params, carry, obs, prev_actions, reset, avail, epsilon, KEY)
    (obs_1, prev_1, _, avail_1), second = crowd(seed=1), np.array([False, True])
    obs = np.where(second[:, None], obs_1, obs)
    prev_actions = np.where(second, prev_1, prev_actions)
    avail = np.where(second[:, None], avail_1, avail)
    _, others = act(params, carry, obs, prev_actions, reset, avail, epsilon, KEY)
    np.testing.assert_array_equal(others[:, 0], actions[:, 0])
    assert (np.asarray(others[:, 1] != actions[:, 1])).any()


@combinations
def test_unavailable_actions_are_never_taken(name, mixer):
    made, params, *_ = factorisation_case(name, mixer)
    act = jax.jit(made.act)
    obs, prev_actions, reset, avail = crowd()
    assert not avail.all(axis=-1).any(axis=0).all()
    carry = made.initial_carry(len(obs))
    for epsilon in (0.0, 0.5, 1.0):
        _, actions = act(params, carry, obs, prev_actions, reset, avail, epsilon, KEY)
        assert (actions.shape, actions.dtype) == ((300, N), jnp.int32)
        assert np.take_along_axis(avail, np.asarray(actions)[..., None], axis=-1).all()


@combinations
def test_greedy_acting_maximises_the_utilities(name, mixer):
    """At the start of an episode, whatever the carry and the action before it were."""
    made, params, *_ = factorisation_case(name, mixer)
    obs, prev_actions, _, avail = crowd(b=20)
    start, none = np.ones(20, bool), np.full_like(prev_actions, -1)
    act = jax.jit(made.act)
    _, actions = act(params, live_carry(made, 20), obs, none, start, avail, 0.0, KEY)
    q = jax.jit(jax.vmap(made.utilities, in_axes=(None, 0)))(params, obs)
    np.testing.assert_array_equal(actions, np.argmax(np.where(avail, q, -np.inf), axis=-1))
