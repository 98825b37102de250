"""Collectors, compared with loops over the expected steps."""

import collections
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from toys import counting

from qmix_jax import collectors, rollout
from qmix_jax.agents import base as agents
from qmix_jax.core import exploration
from qmix_jax.envs import base as envs
from qmix_jax.types import Discrete, EnvSpec, TimeStep, Trajectory

B, T = 6, 23


def counting_act(carry, seen, key):
    """Actions count up within an episode: 0, 1, 2, 0, ...; the carry counts steps since a reset."""
    del key
    carry = jnp.where(seen.reset, 0, carry + 1)
    return carry, (seen.prev_actions + 1) % 3, {}


def random_act(carry, seen, key):
    return carry, exploration.uniform_available(key, seen.avail_actions), {}


def counters(batch):
    return {"act": jnp.zeros((batch,), jnp.int32), "learn": ()}


def setup(env, n_envs=B, carry=counters, **recording):
    return rollout.CollectorSetup(env, carry, rollout.Recording(**recording), n_envs)


def collect(make, window=T, longest=7):
    env = counting.make(counting.Config(limit=5, longest=longest))
    collector = make(setup(env), window)
    actor = collector.init(jax.random.key(1))
    behaviour = rollout.BoundPolicy(counting_act)
    _, trajectory, metrics = jax.jit(lambda key: collector.collect(key, actor, behaviour))(
        jax.random.key(0)
    )
    return jax.tree.map(np.asarray, trajectory), jax.tree.map(np.asarray, metrics)


def episode_lengths(trajectory, b):
    """Lengths of the episodes that ended in sequence b; end entries are not steps."""
    lengths, n = [], 0
    for t in range(T):
        n = 1 if trajectory.reset[t, b] else n + bool(trajectory.valid[t, b])
        truncated = trajectory.valid[t, b] and trajectory.obs[t, b, 0, 1] == 4
        if trajectory.terminated[t, b] or truncated:
            lengths.append(n)
    return lengths


def test_segment_resets_environments_inside_the_window():
    """The end of a truncated episode has its own entry, without a step; the next entry is the first
    of a new episode. A new episode follows a terminated one directly."""
    trajectory, _ = collect(collectors.make_segment)
    assert trajectory.obs.shape == (T + 1, B, 2, 2)
    assert trajectory.reset[0].all()
    n_truncated = n_terminated = 0
    for b in range(B):
        at_end = False
        for t in range(T):
            episode, step = trajectory.obs[t, b, 0]
            following = trajectory.obs[t + 1, b, 0]
            assert trajectory.valid[t, b] == (not at_end)
            if at_end:
                assert step == 5 and not trajectory.terminated[t, b], "only the limit truncates"
                assert trajectory.reset[t + 1, b]
                n_truncated += 1
            else:
                assert trajectory.reward[t, b] == step + 1
            if trajectory.reset[t + 1, b]:
                assert following[0] != episode and following[1] == 0
                n_terminated += trajectory.terminated[t, b]
                assert at_end or trajectory.terminated[t, b]
            else:
                assert following[0] == episode and following[1] == step + 1
                assert not trajectory.terminated[t, b]
            at_end = not at_end and step + 1 == 5 and not trajectory.terminated[t, b]
    assert n_truncated > 3 and n_terminated > 3


def test_segment_has_no_previous_action_at_the_start_of_every_episode():
    trajectory, _ = collect(collectors.make_segment)
    steps = trajectory.obs[:-1, :, 0, 1].astype(int)
    np.testing.assert_array_equal(trajectory.actions, np.stack([steps % 3] * 2, axis=-1))


def test_episode_stores_one_episode_and_its_true_final_observation():
    trajectory, _ = collect(collectors.make_episode)
    ends = []
    for b in range(B):
        length = int(trajectory.valid[:, b].sum())
        ends.append(bool(trajectory.terminated[length - 1, b]))
        assert trajectory.valid[:length, b].all() and not trajectory.valid[length:, b].any()
        assert trajectory.reset[0, b] and not trajectory.reset[1:, b].any()
        np.testing.assert_array_equal(trajectory.obs[: length + 1, b, 0, 1], np.arange(length + 1))
        final = trajectory.obs[length, b]
        np.testing.assert_array_equal(
            trajectory.obs[length:, b], np.broadcast_to(final, (T + 1 - length, 2, 2))
        )
        assert trajectory.obs[0, b, 0, 0] == final[0, 0], (
            "the final observation is the same episode's"
        )
        assert length == 5 or ends[-1]
    assert any(ends) and not all(ends), "both kinds of end occur"


@pytest.mark.parametrize("make", [collectors.make_segment, collectors.make_episode])
def test_episode_metrics_count_finished_episodes_only(make):
    trajectory, metrics = collect(make)
    lengths = []
    for b in range(B):
        if make is collectors.make_episode:
            lengths.append(int(trajectory.valid[:, b].sum()))
        else:
            lengths += episode_lengths(trajectory, b)
    returns = [n * (n + 1) / 2 for n in lengths]
    for name, values in {"return": returns, "length": lengths, "last_step": lengths}.items():
        total, count = metrics[f"rollout/{name}"]
        assert (float(total), int(count)) == (sum(values), len(values)), name
    total, count = metrics["rollout/valid_fraction"]
    assert (int(total), int(count)) == (trajectory.valid.sum(), T * B)


WINDOW, BURN_IN = 4, 3


def windows(n, act=counting_act, carry=None, longest=7):
    """(trajectory, metrics) of `n` rollouts in a row."""
    env = counting.make(counting.Config(limit=5, longest=longest))
    collector = collectors.make_window(setup(env, carry=carry or counters), WINDOW, BURN_IN)
    actor = collector.init(jax.random.key(1))
    collect = jax.jit(lambda key, actor: collector.collect(key, actor, rollout.BoundPolicy(act)))
    results = []
    for i in range(n):
        actor, trajectory, metrics = collect(jax.random.key(10 + i), actor)
        results.append(jax.tree.map(np.asarray, (trajectory, metrics)))
    return results


def joined(trajectories):
    """The new steps of consecutive windows as one long sequence."""
    return np.concatenate([x[BURN_IN:] for x in trajectories])


def test_a_window_continues_the_previous_one_and_repeats_its_end():
    trajectories = [trajectory for trajectory, _ in windows(6)]
    obs = joined([x.obs[:-1] for x in trajectories])
    reset = joined([x.reset[:-1] for x in trajectories])
    assert reset[0].all() and reset[1:].any()
    change = obs[1:, :, 0] - obs[:-1, :, 0]
    np.testing.assert_array_equal(change[~reset[1:]], np.tile([0, 1], ((~reset[1:]).sum(), 1)))
    assert (obs[1:, :, 0, 1][reset[1:]] == 0).all()
    assert not any(x.valid[:BURN_IN].any() for x in trajectories), "learnt from once"
    for before, after in itertools.pairwise(trajectories):
        for name in ("obs", "state", "avail_actions", "reset"):
            repeated = getattr(before, name)[-1 - BURN_IN :]
            np.testing.assert_array_equal(getattr(after, name)[: BURN_IN + 1], repeated)
        for name in ("actions", "reward", "terminated"):
            repeated = getattr(before, name)[-BURN_IN:]
            np.testing.assert_array_equal(getattr(after, name)[:BURN_IN], repeated)


def test_only_the_end_entry_of_a_truncated_episode_is_invalid_in_a_window():
    """Also if a window ends with the truncated step: the next one starts with its end."""
    trajectories = [trajectory for trajectory, _ in windows(6)]
    obs, terminated, valid, reset = (
        joined([getattr(x, name)[: WINDOW + BURN_IN] for x in trajectories])
        for name in ("obs", "terminated", "valid", "reset")
    )
    at_end = obs[:, :, 0, 1] == 5
    assert at_end.any() and terminated.any() and at_end[::WINDOW].any()
    np.testing.assert_array_equal(valid, ~at_end)
    np.testing.assert_array_equal(reset[1:], terminated[:-1] | at_end[:-1])


def test_a_window_stores_the_carry_and_previous_actions_of_its_start():
    n_inside = 0
    for trajectory, _ in windows(6)[2:]:
        begins, step = trajectory.reset[0], trajectory.obs[0, :, 0, 1]
        n_inside += (~begins).sum()
        np.testing.assert_array_equal(trajectory.start.carry["act"][~begins], step[~begins] - 1)
        expected = np.where(begins, -1, (step - 1) % 3)
        np.testing.assert_array_equal(trajectory.start.prev_actions.T, [expected] * 2)
    assert n_inside > B, "most windows begin inside an episode"


def test_unrolling_windows_equals_unrolling_the_full_history():
    agent = samples.component("agents", "gru", {"hidden": 8})
    params = samples.params(agent.init)

    def carry(batch):
        return {"act": jnp.zeros((batch, 2, 8)), "learn": ()}

    def act(carry, seen, key):
        padded = replace(seen, obs=jnp.concatenate([seen.obs, seen.obs], axis=-1))
        return random_act(agents.step(agent, params, carry, padded)[0], seen, key)

    def q_of(trajectory):
        padded = replace(trajectory, obs=np.concatenate([trajectory.obs] * 2, axis=-1))
        return np.asarray(agents.unroll(agent, params, padded).head)

    trajectories = [trajectory for trajectory, _ in windows(5, act, carry)]
    history = Trajectory(
        **{
            name: joined([getattr(x, name)[: WINDOW + BURN_IN] for x in trajectories])
            for name in ("obs", "state", "avail_actions", "reset", "actions", "reward")
        },
        terminated=None,
        valid=None,
    )
    full = q_of(replace(history, actions=history.actions[:-1]))
    for i, trajectory in enumerate(trajectories[1:], start=1):
        first = i * WINDOW - BURN_IN
        expected = full[first : first + WINDOW + BURN_IN]
        np.testing.assert_allclose(q_of(trajectory)[:-1], expected, rtol=1e-5, atol=1e-6)


def test_episodes_that_span_windows_are_counted_once():
    results = windows(8)
    obs, terminated, valid = (
        joined([getattr(x, name)[: WINDOW + BURN_IN] for x, _ in results])
        for name in ("obs", "terminated", "valid")
    )
    steps = obs[:, :, 0, 1] + 1
    lengths = steps[valid & (terminated | (steps == 5))]
    assert len(lengths) > 20 and len(set(lengths)) > 2
    total = sum(metrics["rollout/length"][0] for _, metrics in results)
    assert sum(metrics["rollout/length"][1] for _, metrics in results) == len(lengths)
    assert total == sum(lengths)
    returned = sum(metrics["rollout/return"][0] for _, metrics in results)
    assert returned == sum(n * (n + 1) / 2 for n in lengths)


def test_new_starts_are_drawn_every_few_steps():
    env = counting.make(counting.Config(limit=40, longest=12))
    collector = collectors.make_segment(setup(env), 40)
    behaviour = rollout.BoundPolicy(counting_act)
    _, trajectory, _ = collector.collect(jax.random.key(0), (), behaviour)
    reset, ids = np.asarray(trajectory.reset), np.asarray(trajectory.obs)[:, :, 0, 0]
    starts = [((t + 3) // 4, ids[t, b]) for b in range(B) for t in range(41) if reset[t, b]]
    assert len(starts) > 20
    slots = collections.defaultdict(set)
    for slot, episode in starts:
        slots[episode].add(slot)
    assert all(len(used) == 1 for used in slots.values()), "one start per slot"
    assert len(slots) > 0.7 * len(starts)


@pytest.mark.parametrize("make", [collectors.make_segment, collectors.make_episode])
def test_an_unavailable_action_is_never_stored_under_a_random_policy(make):
    env = counting.make(counting.Config())
    collector = make(setup(env), T)
    _, trajectory, _ = collector.collect(jax.random.key(3), (), rollout.BoundPolicy(random_act))
    available = np.take_along_axis(
        np.asarray(trajectory.avail_actions[:-1]), np.asarray(trajectory.actions)[..., None], -1
    )[..., 0]
    assert available[np.asarray(trajectory.valid)].all()


def test_an_online_learner_gets_true_successors_and_acts_with_its_latest_parameters():
    """The learner counts and logs the steps that it learns from; actions follow the count."""
    env = counting.make(counting.Config(limit=5, longest=7))
    collector = collectors.make_online(setup(env), T)

    def behave(memory):
        def act(carry, seen, key):
            return carry, jnp.full_like(seen.prev_actions, memory["n"] % 3), {}

        return rollout.BoundPolicy(act)

    def learn(memory, trajectory, t):
        row = {
            name: getattr(trajectory, name)
            for name in ("obs", "reset", "actions", "reward", "terminated", "valid")
        } | {"prev_actions": trajectory.start.prev_actions}
        log = jax.tree.map(lambda log, x: log.at[t].set(x), memory["log"], row)
        return {"n": memory["n"] + 1, "log": log}, {"train/n": (memory["n"], 1)}

    shapes = {
        "obs": (2, B, 2, 2), "reset": (2, B), "actions": (1, B, 2), "reward": (1, B),
        "terminated": (1, B), "valid": (1, B), "prev_actions": (B, 2),
    }  # fmt: skip
    log = {name: jnp.zeros((T, *shape)) for name, shape in shapes.items()}
    actor = collector.init(jax.random.key(1))
    run = jax.jit(lambda memory: collector.collect(jax.random.key(0), actor, memory, behave, learn))
    _, memory, metrics = run({"n": jnp.int32(0), "log": log})
    assert int(memory["n"]) == T and int(metrics["train/n"][0]) == T * (T - 1) // 2
    seen = jax.tree.map(np.asarray, memory["log"])
    assert seen["valid"].all() and not seen["reset"][:, 1].any()
    np.testing.assert_array_equal(seen["actions"][:, 0, 0, 0], np.arange(T) % 3)
    step, episode = seen["obs"][:, :, :, 0, 1], seen["obs"][:, :, :, 0, 0]
    np.testing.assert_array_equal(step[:, 1], step[:, 0] + 1)
    np.testing.assert_array_equal(episode[:, 1], episode[:, 0])
    ended = seen["terminated"][:, 0].astype(bool) | (step[:, 1] == 5)
    assert seen["terminated"].any() and not seen["terminated"].all()
    np.testing.assert_array_equal(seen["reset"][1:, 0].astype(bool), ended[:-1])
    np.testing.assert_array_equal((seen["prev_actions"][:, :, 0] == -1), seen["reset"][:, 0])


def neighbourly(alive, near, fixed):
    """Three agents of whom some live and some are near; `fixed`: the spec says who is near."""
    actions = Discrete((3, 3, 3))
    spec = EnvSpec(
        name="neighbourly",
        agent_names=("a", "b", "c"),
        agent_groups=(0, 0, 0),
        actions=actions,
        obs_shapes=((1,),) * 3,
        obs_shape=(1,),
        state_size=1,
        max_steps=3,
        neighbours=near if fixed else None,
    )

    def show(t):
        return TimeStep(
            obs=jnp.zeros((3, 1)),
            state=jnp.zeros((1,)),
            avail_actions=jnp.ones((3, 3), bool),
            reward=jnp.zeros((3,)),
            terminated=t >= 3,
            truncated=jnp.zeros((), bool),
            metrics={},
            alive=None if alive is None else jnp.asarray(alive),
            neighbours=None if fixed or near is None else jnp.asarray(near),
        )

    return envs.Env(
        spec=spec,
        reset=lambda key: (jnp.int32(0), show(jnp.int32(0))),
        step=lambda key, t, actions: (t + 1, show(t + 1)),
        team_reward=envs.first_agent,
    )


NEAR = np.array([[False, True, True], [True, False, False], [True, True, True]])
ALIVE = np.array([True, True, False])


@pytest.mark.parametrize(
    ("alive", "near", "fixed"),
    [(None, None, False), (ALIVE, None, False), (ALIVE, NEAR, True), (ALIVE, NEAR, False)],
    ids=["everyone else", "all others alive", "the spec's", "the time step's"],
)
def test_mean_actions_average_living_neighbours_and_are_observed_one_step_later(alive, near, fixed):
    env = neighbourly(alive, near, fixed)
    seen_by_agents = []

    def act(carry, seen, key):
        seen_by_agents.append(seen.mean_action)
        return carry, exploration.uniform_available(key, seen.avail_actions), {}

    collector = collectors.make_segment(setup(env, mean_action=True), 8)
    _, trajectory, _ = collector.collect(jax.random.key(0), (), rollout.BoundPolicy(act))
    assert seen_by_agents[0].shape == (B, 3, 3)
    others = ~np.eye(3, dtype=bool) if near is None else near
    living = np.ones(3, bool) if alive is None else alive
    features = np.eye(3)[np.asarray(trajectory.actions)]
    for i in range(3):
        who = [j for j in range(3) if others[i, j] and living[j]]
        mean = np.mean([features[:, :, j] for j in who], axis=0) if who else 0.0
        np.testing.assert_allclose(trajectory.mean_action[:, :, i], mean, atol=1e-6)
    mean_action = agents.observed(trajectory).mean_action
    reset = np.asarray(trajectory.reset)
    assert reset[1:].any()
    before = np.concatenate([np.zeros((1, B, 3, 3)), trajectory.mean_action])
    np.testing.assert_allclose(
        mean_action, np.where(reset[..., None, None], 0.0, before), atol=1e-6
    )


def test_rewards_per_agent_are_not_summed():
    env = counting.make(counting.Config(limit=5))
    collector = collectors.make_segment(setup(env, reward="own"), T)
    behaviour = rollout.BoundPolicy(counting_act)
    _, trajectory, metrics = collector.collect(jax.random.key(0), (), behaviour)
    assert trajectory.reward.shape == (T, B, 2)
    np.testing.assert_array_equal(trajectory.reward[..., 0], trajectory.obs[:-1, :, 0, 1] + 1)
    assert {"rollout/return/a", "rollout/return/b"} <= set(metrics)
    np.testing.assert_array_equal(metrics["rollout/return"], metrics["rollout/return/b"])
