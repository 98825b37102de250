"""Which agents share parameters; `test_agent_contract.py` runs all agents under every choice."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import config
from qmix_jax.agents import gru, mlp
from qmix_jax.types import Discrete

N, A, T, B = 3, 3, 4, 2
SPEC = replace(
    samples.SPEC,
    agent_names=("a", "b", "c"),
    agent_groups=(0, 1, 0),
    actions=Discrete((3, 2, 3)),
    obs_shapes=((4,), (3,), (4,)),
)
FORMS = {
    "none": ({"sharing": "none"}, [0, 1, 2]),
    "environment": ({"sharing": "groups"}, [0, 1, 0]),
    "named": ({"sharing": "groups", "groups": (("c", "b"), ("a",))}, [1, 0, 0]),
}
each_form = pytest.mark.parametrize(("options", "group_of"), FORMS.values(), ids=FORMS)


def make(**options):
    return gru.make(gru.Config(hidden=5, **options), SPEC, A)


def make_mlp(**options):
    return mlp.make(mlp.Config(hidden=5, **options), SPEC, A)


def history():
    rng = np.random.default_rng(0)
    prev_actions = rng.integers(-1, A, (T, B, N)).astype(np.int32)
    obs = samples.normal(rng, T, B, N, *SPEC.obs_shape)
    return samples.observed(obs, prev_actions, rng.random((T, B)) < 0.3)


@pytest.fixture(scope="module")
def shared():
    """(agent, params) in which all agents share parameters."""
    agent = make()
    return agent, samples.params(agent.init)


def test_all_share_one_network_without_a_group_axis(shared):
    shapes = jax.tree.map(jnp.shape, shared[1])
    assert shapes == {
        "embed": {"kernel": (4 + A + N, 5), "bias": (5,)},
        "gru": {
            "input_kernel": (5, 15),
            "recurrent_kernel": (5, 15),
            "bias": (15,),
            "candidate_bias": (5,),
        },
        "head": {"kernel": (5, A), "bias": (A,)},
    }


def test_one_group_of_all_agents_is_the_same_program(shared):
    agent, params = shared
    together = make(sharing="groups", groups=(("b", "a", "c"),))
    programs = [
        str(jax.make_jaxpr(made.unroll)(params, made.initial_carry(B), history()))
        for made in (agent, together)
    ]
    assert programs[0] == programs[1]
    inits = [str(jax.make_jaxpr(made.init)(jax.random.key(0))) for made in (agent, together)]
    assert inits[0] == inits[1]


@each_form
def test_groups_with_equal_parameters_are_one_network(shared, options, group_of):
    agent, params = shared
    grouped, size = make(**options), max(group_of) + 1
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * size), params)
    carry = samples.live_carry(agent, B)
    expected = jax.jit(agent.unroll)(params, carry, history())
    result = jax.jit(grouped.unroll)(copies, carry, history())
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), result, expected
    )


@each_form
def test_every_agent_uses_only_the_parameters_of_its_group(options, group_of):
    """Gradients of one agent's values reach only the parameters of its group."""
    together, grouped = make_mlp(), make_mlp(**options)
    params, inputs = samples.params(grouped.init), history()

    @jax.jit
    def values(params, weight):
        q = grouped.unroll(params, (), inputs)[1]
        return jnp.sum(jnp.square(q) * weight), q

    gradient = jax.grad(values, has_aux=True)
    for i, group in enumerate(group_of):
        mask_of_agent = np.zeros((T, B, N, A), np.float32)
        mask_of_agent[:, :, i] = 1.0
        grads, q = gradient(params, mask_of_agent)
        alone = jax.tree.map(lambda leaf, group=group: leaf[group], params)
        expected = together.unroll(alone, (), inputs)[1]
        np.testing.assert_allclose(q[:, :, i], expected[:, :, i], rtol=1e-5, atol=1e-6)
        for leaf in jax.tree.leaves(grads):
            assert len(leaf) == max(group_of) + 1
            reached = np.abs(leaf).reshape(len(leaf), -1).max(axis=1) > 0
            assert list(np.flatnonzero(reached)) == [group]


def test_groups_start_with_different_parameters():
    params = jax.jit(make_mlp(sharing="none").init)(jax.random.key(0))
    for leaf in jax.tree.leaves(params):
        assert len({row.tobytes() for row in np.asarray(leaf)}) == N


@pytest.mark.parametrize(
    ("sharing", "groups", "words"),
    [
        ("groups", (("a", "x"), ("b", "c")), "no agent 'x'; allowed: a, b, c"),
        ("groups", (("a", "b"),), "'c' is in no group; list every agent once"),
        ("groups", (("a", "b"), ("b", "c")), "'b' is listed more than once"),
        ("groups", (("a", "b", "c"), ("c",)), "'c' is listed more than once"),
        ("none", (("a", "b", "c"),), "sharing=none; set sharing=groups"),
    ],
)
def test_groups_that_are_not_a_partition_are_refused(sharing, groups, words):
    with pytest.raises(config.ConfigError, match=words) as error:
        make(sharing=sharing, groups=groups)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("groups", [[], [["a", "b", "c"], []]])
def test_empty_groups_are_refused(groups):
    options = {"sharing": "groups", "groups": groups}
    with pytest.raises(
        config.ConfigError, match=r"agent\.options\.groups.*at least 1 item"
    ) as error:
        config.load({"agent": {"name": "gru", "options": options}})
    assert "\n" not in str(error.value)
