"""Which agents share parameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import components, config
from qmix_jax.agents import base, gru, mlp

N, A, T, B = 3, 3, 4, 2
SPEC = replace(
    samples.SPEC,
    agent_names=("a", "b", "c"),
    agent_groups=(0, 1, 0),
    n_actions=(3, 2, 3),
    obs_shapes=((4,), (3,), (4,)),
)
FORMS = {
    "none": ({"sharing": "none"}, [0, 1, 2]),
    "environment": ({"sharing": "groups"}, [0, 1, 0]),
    "named": ({"sharing": "groups", "groups": (("c", "b"), ("a",))}, [1, 0, 0]),
}
each_form = pytest.mark.parametrize(("options", "group_of"), FORMS.values(), ids=FORMS)


def make(**options):
    return gru.make(gru.Config(hidden=5, **options), SPEC)


def history():
    rng = np.random.default_rng(0)
    prev_actions = rng.integers(-1, A, (T, B, N)).astype(np.int32)
    return samples.normal(rng, T, B, N, *SPEC.obs_shape), prev_actions, rng.random((T, B)) < 0.3


@pytest.fixture(scope="module")
def shared():
    """(agent, params) with parameters of all agents in common."""
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
        str(jax.make_jaxpr(one.unroll)(params, one.initial_carry(B), *history()))
        for one in (agent, together)
    ]
    assert programs[0] == programs[1]
    key = jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, agent.init(key), together.init(key))


@each_form
def test_groups_with_equal_parameters_are_one_network(shared, options, group_of):
    agent, params = shared
    grouped, size = make(**options), max(group_of) + 1
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * size), params)
    carry = samples.live_carry(agent, B)
    expected = agent.unroll(params, carry, *history())
    found = grouped.unroll(copies, carry, *history())
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected
    )


@each_form
def test_every_agent_uses_its_own_groups_parameters_and_no_other(shared, options, group_of):
    agent, grouped = shared[0], make(**options)
    params, carry = samples.params(grouped.init), samples.live_carry(agent, B)
    q = grouped.unroll(params, carry, *history())[1]

    def own_values(params, i):
        return jnp.sum(jnp.square(grouped.unroll(params, carry, *history())[1][:, :, i]))

    gradient = jax.jit(jax.grad(own_values), static_argnums=1)
    for i, group in enumerate(group_of):
        alone = jax.tree.map(lambda leaf, group=group: leaf[group], params)
        expected = agent.unroll(alone, carry, *history())[1]
        np.testing.assert_allclose(q[:, :, i], expected[:, :, i], rtol=1e-5, atol=1e-6)
        for leaf in jax.tree.leaves(gradient(params, i)):
            assert len(leaf) == max(group_of) + 1
            reached = np.abs(leaf).reshape(len(leaf), -1).max(axis=1) > 0
            assert list(np.flatnonzero(reached)) == [group]


@each_form
def test_groups_begin_with_different_parameters(options, group_of):
    params = jax.jit(make(**options).init)(jax.random.key(0))
    for leaf in jax.tree.leaves(params):
        assert len(leaf) == len({row.tobytes() for row in np.asarray(leaf)}) == max(group_of) + 1


def test_agents_of_an_environment_with_different_sizes_have_groups_of_their_own():
    """The speaker sees 3 numbers and says one of 3 words, the listener sees 11 and moves."""
    env = components.find("envs", "jaxmarl")
    with jax.numpy_rank_promotion("allow"):
        spec = env.make(env.Config(id="MPE_simple_speaker_listener_v4")).spec
    assert (spec.obs_shapes, spec.n_actions) == (((3,), (11,)), (3, 5))
    assert base.sharing_groups(base.Config(sharing="groups"), spec) == ((0,), (1,))
    agent = mlp.make(mlp.Config(hidden=5, sharing="groups"), spec)
    params = jax.eval_shape(agent.init, jax.random.key(0))
    assert params["hidden_0"]["kernel"].shape == (2, 11 + 2, 5)


@pytest.mark.parametrize(
    ("sharing", "groups", "words"),
    [
        ("groups", (("a", "x"), ("b", "c")), "no agent 'x'; allowed: a, b, c"),
        ("groups", (("a", "b"),), "belongs to one group; look for c"),
        ("groups", (("a", "b"), ("b", "c")), "belongs to one group; look for b"),
        ("groups", (("a", "b", "c"), ()), "look for an empty group"),
        ("groups", (), "look for a, b, c"),
        ("none", (("a", "b", "c"),), "sharing=none; set sharing=groups"),
    ],
)
def test_groups_that_are_no_partition_are_refused_in_one_line(sharing, groups, words):
    with pytest.raises(config.ConfigError, match=words) as error:
        make(sharing=sharing, groups=groups)
    assert "\n" not in str(error.value)
