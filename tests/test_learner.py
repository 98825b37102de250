"""The optimiser's step, the clip, the learning rate and the target network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import ranks
import samples

from qmix_jax import learner as learners
from qmix_jax.agents import gru
from qmix_jax.mixers import qmix
from qmix_jax.types import Schedule

strict = ranks.strict

SETTINGS = {"beta1": 0.9, "beta2": 0.999, "decay": 0.99}
KEY = jax.random.key(0)


PARTS = ("agent", "mixer")


def initial():
    return {"agent": jnp.ones(2), "mixer": jnp.ones(1)}


def linear_learner(optimiser, targets=PARTS):
    """A loss whose gradient is the batch."""

    def loss(params, target_params, batch, hparams, clock, k, key):
        products = jax.tree.map(lambda p, g: jnp.sum(p * g), params, batch)
        value = products["agent"] + products["mixer"]
        metrics = {"loss": (value, jnp.ones(()))}
        return value, learners.LossAux(metrics=metrics, priority=jnp.arange(3.0))

    return learners.by_gradient([learners.Phase(PARTS, loss)], optimiser, targets)


def gradients(agent=(0.0, 0.0), mixer=0.0):
    return {"agent": jnp.array(agent), "mixer": jnp.array([mixer])}


def run(optimiser, grads, hparams, first_step=0, **options):
    """The learner states after each of a list of gradients, beginning with the initial one."""
    learner = linear_learner(optimiser, **options)
    states, update = [learner.init(initial())], jax.jit(learner.update)
    for step, grad in enumerate(grads, start=first_step):
        states.append(update(states[-1], grad, hparams, samples.clock(step), KEY)[0])
    return states


def walk(states):
    """First agent parameter after each step."""
    return np.array([state.params["agent"][0] for state in states], np.float64)


def test_first_step_of_rmsprop():
    """v = 0.01 and 5e-4 / (0.1 + 1e-5); with eps inside the root it would be 4.9975e-3."""
    rmsprop = learners.make_optimiser("rmsprop", eps=1e-5, **SETTINGS)
    hparams = samples.hparams(learning_rate=5e-4)
    states = run(rmsprop, [gradients((1.0, 0.0))], hparams)
    np.testing.assert_allclose(1.0 - walk(states)[1], 4.9995e-3, rtol=2e-5)


def test_rmsprop_adds_eps_outside_the_root():
    """A gradient of 1e-4: 1e-4 / (1e-5 + 1e-5) is 5; inside the root it would be 0.03."""
    rmsprop = learners.make_optimiser("rmsprop", eps=1e-5, **SETTINGS)
    states = run(rmsprop, [gradients((1e-4, 0.0))], samples.hparams(learning_rate=1.0))
    np.testing.assert_allclose(1.0 - walk(states)[1], 5.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["rmsprop", "adam", "radam"])
def test_optimiser_steps_agree_with_a_loop(name):
    """Eight steps: RAdam is plain momentum for the first five and rectified afterwards."""
    sequence = [1.0, -0.5, 0.25, 2.0, 0.1, -1.5, 0.7, 0.3]
    eps = 1e-2  # large enough for its place to show
    optimiser = learners.make_optimiser(name, eps=eps, **SETTINGS)
    states = run(
        optimiser, [gradients((g, 0.0)) for g in sequence], samples.hparams(learning_rate=0.1)
    )
    settings = {"rmsprop": (0.99, eps)}.get(name, (0.9, 0.999, eps))
    expected = np.cumsum(getattr(oracles, name)(sequence, *settings))
    np.testing.assert_allclose(1.0 - walk(states)[1:], 0.1 * expected, rtol=1e-3, atol=1e-6)


def test_first_step_of_adam_by_hand():
    """Bias correction makes it the sign of the gradient: 0.1 * 0.5 / (0.5 + 0.5)."""
    adam = learners.make_optimiser("adam", eps=0.5, **SETTINGS)
    states = run(adam, [gradients((-0.5, 0.0))], samples.hparams(learning_rate=0.1))
    np.testing.assert_allclose(walk(states)[1], 1.05, rtol=1e-5)


def test_clip_is_joint_over_agent_and_mixer():
    """Norm of (3, 0) and 4 is 5; clipped to 1, every part shrinks fivefold."""
    hparams = samples.hparams(learning_rate=1.0, max_grad_norm=1.0)
    _, after = run(optax.identity(), [gradients((3.0, 0.0), 4.0)], hparams)
    np.testing.assert_allclose(after.params["agent"], [0.4, 1.0], rtol=1e-6)
    np.testing.assert_allclose(after.params["mixer"], [0.2], rtol=1e-6)


def test_clip_does_not_change_small_and_zero_gradients():
    small, zero = gradients((3.0, 0.0), 4.0), gradients()
    for grads, norm in ((small, 5.0), (zero, 0.0)):
        clipped, measured = learners.clip(grads, jnp.float32(5.0))
        jax.tree.map(np.testing.assert_array_equal, clipped, grads)
        assert float(measured) == norm


def test_update_returns_the_unclipped_norm_and_the_loss_aux():
    learner = linear_learner(optax.identity())
    _, metrics, priority = learner.update(
        learner.init(initial()),
        gradients((3.0, 0.0), 4.0),
        samples.hparams(max_grad_norm=1.0),
        samples.CLOCK,
        KEY,
    )
    assert {name: tuple(map(float, pair)) for name, pair in metrics.items()} == {
        "train/loss": (7.0, 1.0),
        "train/grad_norm": (5.0, 1.0),
    }
    np.testing.assert_array_equal(priority, [0.0, 1.0, 2.0])


def test_target_is_copied_exactly_after_every_period():
    """Period 3: after gradient steps 3 and 6, bit for bit, and at no other time."""
    sequence = [gradients((0.1 * k, 1 / 3), 0.7) for k in range(1, 8)]
    states = run(optax.identity(), sequence, samples.hparams(target_period=3, target_tau=1.0))
    copied_at = [0, 0, 0, 3, 3, 3, 6, 6]
    for state, source in zip(states, copied_at, strict=True):
        jax.tree.map(np.testing.assert_array_equal, state.target_params, states[source].params)
    assert len({float(value) for value in walk(states)}) == len(states)


def test_target_period_counts_gradient_steps_from_the_start_of_the_run():
    """The second update with K = 4 starts at gradient step 4; its second step is the run's 6th."""
    sequence = [gradients((1.0, 0.0))] * 3
    states = run(optax.identity(), sequence, samples.hparams(target_period=3), first_step=4)
    for state, source in zip(states, [0, 0, 2, 2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, state.target_params, states[source].params)


def test_soft_target():
    """1 -> 0, so that the target goes 1 -> 0.75 -> 0.5625 when the parameters stay at 0."""
    hparams = samples.hparams(learning_rate=1.0, target_period=1, target_tau=0.25)
    states = run(optax.identity(), [gradients((1.0, 0.0)), gradients()], hparams)
    np.testing.assert_allclose(
        [state.target_params["agent"][0] for state in states], [1.0, 0.75, 0.5625], rtol=1e-6
    )


def test_a_learner_without_targets_has_no_target_params():
    states = run(optax.identity(), [gradients((1.0, 0.0))], samples.hparams(), targets=())
    assert [state.target_params for state in states] == [{}, {}]


def test_learning_rate_follows_the_gradient_step():
    schedule = Schedule(start=jnp.float32(1.0), end=jnp.float32(0.2), steps=jnp.float32(8.0))
    hparams = samples.hparams(learning_rate=schedule)
    sequence = [gradients((1.0, 0.0))] * 4
    from_start = walk(run(optax.identity(), sequence, hparams))
    np.testing.assert_allclose(-np.diff(from_start), [1.0, 0.9, 0.8, 0.7], rtol=1e-5)
    later = walk(run(optax.identity(), sequence, hparams, first_step=6))
    np.testing.assert_allclose(-np.diff(later), [0.4, 0.3, 0.2, 0.2], rtol=1e-4)


@pytest.fixture(scope="module")
def qmix_states():
    """States of a real QMIX learner: at the start and after each of four gradient steps."""
    mixer = qmix.make(qmix.Config(embed_dim=3, hypernet_embed=4), samples.SPEC)
    agent = gru.make(gru.Config(hidden=6), samples.SPEC, samples.SPEC.actions.width)
    optimiser = learners.make_optimiser("adam", eps=1e-5, **SETTINGS)
    made = samples.algorithm("td", {}, agent, mixer, optimiser=optimiser)
    states, update = [made.learner.init(samples.params(made.init))], jax.jit(made.learner.update)
    for step in range(4):
        batch = samples.batch("segment", seed=step)
        hparams = samples.hparams(learning_rate=1e-2, target_period=2)
        states.append(update(states[-1], batch, hparams, samples.clock(step), KEY)[0])
    return states


def test_every_parameter_of_agent_and_mixer_is_learnt(qmix_states):
    before, after = qmix_states[0].params, qmix_states[1].params
    assert set(after) == {"agent", "mixer"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        old = before
        for key in path:
            old = old[key.key]
        assert (np.asarray(leaf != old)).any(), jax.tree_util.keystr(path)


def test_target_agent_and_target_mixer_are_copied_together(qmix_states):
    for state, source in zip(qmix_states, [0, 0, 2, 2, 4], strict=True):
        jax.tree.map(np.testing.assert_array_equal, state.target_params, qmix_states[source].params)


def shifting_loss(part, other):
    """Half of (part - other)^2: the step reveals the value of `other` when the phase runs."""

    def loss(params, target_params, batch, hparams, clock, k, key):
        value = 0.5 * jnp.sum((params[part] - params[other]) ** 2)
        index = (jnp.float32(k), jnp.ones(()))
        metrics = {"loss": (value, jnp.ones(())), "k": index}
        return value, learners.LossAux(metrics=metrics, priority=jnp.ones(1))

    return loss


def in_phases(*phases, targets=(), rate=0.5, gradient_step=0, **values):
    """State and metrics after one gradient step from actor = 1 and critic = 3."""
    learner = learners.by_gradient(phases, optax.identity(), targets)
    state = learner.init({"actor": jnp.array([1.0]), "critic": jnp.array([3.0])})
    hparams = samples.hparams(learning_rate=rate, **values)
    clock = samples.clock(gradient_step)
    return learner.update(state, samples.batch("segment"), hparams, clock, KEY)[:2]


def test_phases_run_in_order_and_step_only_their_own_parts():
    """The critic goes from 3 half the way to the actor's 1; the actor, next, half the way from 1 to
    the critic's new 2."""
    state, metrics = in_phases(
        learners.Phase(("critic",), shifting_loss("critic", "actor"), name="critic"),
        learners.Phase(("actor",), shifting_loss("actor", "critic"), name="actor"),
    )
    np.testing.assert_allclose(state.params["critic"], [2.0])
    np.testing.assert_allclose(state.params["actor"], [1.5])
    assert {"train/critic_loss", "train/critic_grad_norm", "train/actor_loss"} <= set(metrics)
    np.testing.assert_allclose(metrics["train/critic_grad_norm"], (2.0, 1.0))


def test_a_phase_repeats_with_its_index_and_sums_its_metrics():
    """3 -> 2 -> 1.5 -> 1.25, indices 0 + 1 + 2."""
    phase = learners.Phase(("critic",), shifting_loss("critic", "actor"), repeats=3)
    state, metrics = in_phases(phase)
    np.testing.assert_allclose(state.params["critic"], [1.25])
    np.testing.assert_allclose(state.params["actor"], [1.0])
    np.testing.assert_allclose(metrics["train/k"], (3.0, 3.0))


@pytest.mark.parametrize(("before", "copied"), [(0, False), (1, True), (2, False), (4, True)])
def test_a_target_counts_the_steps_of_its_own_part(before, copied):
    """Three critic steps per gradient step, period 5: due when 5, 10 or 15 fall among them."""
    phase = learners.Phase(("critic",), shifting_loss("critic", "actor"), repeats=3)
    values = {"gradient_step": before, "target_period": 5}
    state, _ = in_phases(phase, targets=("critic",), **values)
    assert set(state.target_params) == {"critic"}
    np.testing.assert_allclose(state.target_params["critic"], [1.25 if copied else 3.0])


def test_each_phase_has_its_own_learning_rate_and_clip():
    """The gradient 2 is clipped to 0.25, and the rate is 0.1: 3 - 0.025."""
    phase = learners.Phase(
        ("critic",),
        shifting_loss("critic", "actor"),
        learning_rate=lambda hparams: samples.constant(0.1),
        max_grad_norm=lambda hparams: jnp.float32(0.25),
    )
    np.testing.assert_allclose(in_phases(phase)[0].params["critic"], [2.975], rtol=1e-6)


def test_stacked_parameters_can_be_clipped_per_agent():
    """Rows (3, 4) and (0.3, 0.4) with a clip of 1: only the first one shrinks."""
    rows = jnp.array([[3.0, 4.0], [0.3, 0.4]])

    def loss(params, target_params, batch, hparams, clock, k, key):
        value = jnp.sum(params["critics"] * rows)
        return value, learners.LossAux(metrics={"loss": (value, 1.0)}, priority=jnp.ones(1))

    phase = learners.Phase(("critics",), loss, per_agent=True)
    learner = learners.by_gradient([phase], optax.identity())
    state = learner.init({"critics": jnp.zeros((2, 2))})
    hparams = samples.hparams(learning_rate=1.0, max_grad_norm=1.0)
    batch = samples.batch("segment")
    after = learner.update(state, batch, hparams, samples.CLOCK, KEY)[0].params["critics"]
    np.testing.assert_allclose(-after, [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)


def test_statistics_are_neither_differentiated_nor_stepped():
    def loss(params, target_params, batch, hparams, clock, k, key):
        value = jnp.sum(params["critic"] * params["statistics"])
        return value, learners.LossAux(metrics={"loss": (value, 1.0)}, priority=jnp.ones(1))

    learner = learners.by_gradient([learners.Phase(("critic",), loss)], optax.identity())
    state = learner.init({"critic": jnp.ones(1), "statistics": jnp.array([2.0])})
    hparams = samples.hparams(learning_rate=1.0)
    after = learner.update(state, samples.batch("segment"), hparams, samples.CLOCK, KEY)[0]
    np.testing.assert_allclose(after.params["critic"], [-1.0])
    np.testing.assert_allclose(after.params["statistics"], [2.0])
