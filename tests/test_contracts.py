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

# Variants of a mixer whose arithmetic differs; a mixer that is not named is tried as it comes.
VARIANTS = {
    "qmix": tuple(
        {"weight": weight, "hypernet_layers": layers}
        for weight in ("abs", "softplus", "square")
        for layers in (1, 2)
    )
}
MIXERS = tuple(
    (name, tuple(options.items()))
    for name in components.names("mixers")
    for options in VARIANTS.get(name, ({},))
)


def make(kind, name, options=(), *context):
    module = components.find(kind, name)
    return module.make(module.Config.model_validate(dict(options)), SPEC, *context)


def noisy(params, seed=0):
    """Parameters away from their initial values, where sign conventions show."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return treedef.unflatten([leaf + 0.5 * samples.normal(rng, *leaf.shape) for leaf in leaves])


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# ---------------------------------------------------------------------------------------- agents


@functools.cache
def agent_case(name):
    """(agent, params, jitted unroll)."""
    agent = make("agents", name, {"last_action": True}.items())
    return agent, noisy(agent.init(jax.random.key(0))), jax.jit(agent.unroll)


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
    obs[:, :, 1] += 3.0
    prev_actions[:, :, 1] = (prev_actions[:, :, 1] + 1) % A
    other = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    np.testing.assert_array_equal(other[:, :, 0], q[:, :, 0])
    assert (np.asarray(other[:, :, 1] != q[:, :, 1])).all()


@pytest.mark.parametrize("name", AGENTS)
def test_agent_forgets_what_came_before_an_episode(name):
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    reset[:], reset[4] = False, True
    prev_actions[4] = -1
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    obs[:4] += 3.0
    prev_actions[:4] = (prev_actions[:4] + 1) % A
    other = unroll(params, live_carry(agent), obs, prev_actions, reset)[1]
    np.testing.assert_array_equal(other[4:], q[4:])
    assert (np.asarray(other[:4] != q[:4])).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", AGENTS)
def test_agent_no_last_action_is_a_zero_one_hot(name):
    """-1 is none of the actions: it differs from each, by exactly that action's input weights."""
    agent, params, unroll = agent_case(name)
    obs, _, reset = history(t=1)
    values = [
        unroll(params, agent.initial_carry(3), obs, np.full((1, 3, N), action, np.int32), reset)[1]
        for action in range(-1, A)
    ]
    for one, other in itertools.combinations(values, 2):
        assert not np.allclose(one, other)
    layer = "embed" if "embed" in params else "hidden_0"
    kernel = np.array(params[layer]["kernel"])
    kernel[SPEC.obs_shape[0] : SPEC.obs_shape[0] + A] = 0.0
    without = {**params, layer: {**params[layer], "kernel": jnp.asarray(kernel)}}
    blind = unroll(without, agent.initial_carry(3), obs, np.full((1, 3, N), 1, np.int32), reset)[1]
    np.testing.assert_allclose(values[0], blind, rtol=1e-5, atol=1e-5)


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
    """(mixer, jitted joint value of (params, q, state))."""
    mixer = make("mixers", name, options)
    return mixer, jax.jit(lambda *args: apply(mixer, *args).q_tot)


def apply(mixer, params, q, state):
    """The best actions are the taken ones."""
    inputs = mixers.MixerInputs(
        q_taken=q, q_greedy=q, actions=jnp.zeros((*q.shape, A)), state=state
    )
    return mixer.apply(params, inputs)


def situations(*leading, seed=0):
    """(q[..., N], state[..., S]), utilities of both signs."""
    rng = np.random.default_rng(seed)
    return 3.0 * samples.normal(rng, *leading, N), samples.normal(rng, *leading, SPEC.state_size)


@pytest.mark.parametrize(("name", "options"), MIXERS)
def test_mixer_takes_any_leading_axes(name, options):
    mixer, joint = mixer_case(name, options)
    params = noisy(mixer.init(jax.random.key(0)))
    q, state = situations(4, 3)
    out = apply(mixer, params, q, state)
    assert (out.q_tot.shape, out.q_tot.dtype) == ((4, 3), jnp.float32)
    assert (out.penalty.shape, out.penalty.dtype) == ((4, 3), jnp.float32)
    for t, b in np.ndindex(4, 3):
        alone = joint(params, q[t, b], state[t, b])
        assert alone.shape == ()
        np.testing.assert_allclose(out.q_tot[t, b], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options"), MIXERS)
def test_mixer_is_monotonic_where_it_says_so(name, options, seed):
    mixer, joint = mixer_case(name, options)
    params = noisy(mixer.init(jax.random.key(seed)), seed)
    by_q = jax.vmap(jax.grad(joint, argnums=1), in_axes=(None, 0, 0))
    slopes = np.asarray(by_q(params, *situations(200, seed=seed)))
    assert np.isfinite(slopes).all() and (slopes > 0).any()
    if mixer.monotonic:
        assert slopes.min() >= 0.0


@pytest.mark.parametrize(("name", "options"), MIXERS)
def test_mixer_joint_argmax_is_the_tuple_of_argmaxes(name, options):
    """Individual-global-max, by brute force over all joint actions of 50 situations."""
    mixer, joint = mixer_case(name, options)
    if not mixer.monotonic:
        return
    params = noisy(mixer.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 50, N, A), samples.normal(rng, 50, SPEC.state_size)
    actions = list(itertools.product(range(A), repeat=N))
    taken = np.stack([[q[:, i, a] for i, a in enumerate(joint_)] for joint_ in actions])
    tables = np.stack([joint(params, np.transpose(row), state) for row in taken], axis=1)
    greedy = np.argmax(q, axis=-1)
    at_greedy = tables[np.arange(50), greedy[:, 0] * A + greedy[:, 1]]
    np.testing.assert_allclose(at_greedy, tables.max(axis=1), rtol=1e-5, atol=1e-5)
    assert (tables.max(axis=1) - tables.min(axis=1)).min() > 0.0


@pytest.mark.parametrize(("name", "options"), MIXERS)
def test_mixer_gradients_are_finite(name, options):
    mixer, joint = mixer_case(name, options)
    params = noisy(mixer.init(jax.random.key(0)))
    gradient = jax.grad(lambda params: jnp.sum(joint(params, *situations(20))))(params)
    assert all_finite(gradient)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


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
    mixing = None if mixer is None else make("mixers", mixer, {}.items())
    made = make("factorisations", name, (), make("agents", "gru", {"hidden": 8}.items()), mixing)
    params, target_params = (noisy(made.init(jax.random.key(seed)), seed) for seed in (0, 1))
    assert made.uses_target
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
    """Reward, following state or observation, and mask each enter the target."""
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
    made, params, target_params, loss_and_gradient = factorisation_case(name, mixer)
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
    np.testing.assert_array_equal(after.priority[[0, 2]], before.priority[[0, 2]])
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
    other_obs, other_prev, _, other_avail = crowd(seed=1)
    obs[:, 1], prev_actions[:, 1], avail[:, 1] = (
        other_obs[:, 1],
        other_prev[:, 1],
        other_avail[:, 1],
    )
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
    _, actions = made.act(params, live_carry(made, 20), obs, none, start, avail, 0.0, KEY)
    q = np.stack([made.utilities(params, row) for row in obs])
    np.testing.assert_array_equal(actions, np.argmax(np.where(avail, q, -np.inf), axis=-1))
