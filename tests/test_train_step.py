"""The clock, the keys, and the shape of the compiled programs."""

import collections
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import members

from qmix_jax import population, program, train_step


def test_clock_counts_sequences_env_steps_and_gradient_steps():
    timeline = train_step.Timeline(n_envs=3, window=5, gradient_steps=2, warm_up=2)
    for update in range(4):
        clock = timeline.clock(jnp.int32(update))
        assert int(clock.gradient_step) == 2 * update
        assert int(clock.n_added) == 3 * (2 + update)
        assert float(clock.env_steps) == 15 * (2 + update)
    first = timeline.clock(jnp.int32(-2))
    assert (int(first.n_added), float(first.env_steps)) == (0, 0.0)


def test_epsilon_and_rates_follow_the_clock():
    cfg = members.load(
        hparams={"epsilon": {"start": 1.0, "end": 0.0, "steps": 100}, "learning_rate": 1e-3}
    )
    trained = members.train(cfg, calls=(3,))
    steps = [trained.program.plan.env_steps_at(update) for update in range(3)]
    total, count = trained.metrics.totals["train/epsilon"]
    expected = sum(max(0.0, 1.0 - step / 100) for step in steps)
    np.testing.assert_allclose(total[0], expected, rtol=1e-5)
    assert count[0] == 3


def test_ratios_count_gradient_steps_and_valid_steps():
    trained = members.train(members.load(), calls=(4,))
    totals = trained.metrics.totals
    assert totals["train/loss"][1][0] == 4 * 2
    assert totals["train/grad_norm"][1][0] == 4 * 2
    sampled = 4 * 2 * 4 * 5  # updates, gradient steps, sequences, steps per sequence
    # A segment as long as the limit has no room for the end entry of an episode.
    assert totals["train/td_error_abs"][1][0] == sampled
    assert totals["rollout/valid_fraction"][1][0] == 4 * 3 * 5


def program_jaxpr(cfg):
    built = program.build(cfg)
    hparams = program.hparams(cfg.hparams)
    state = jax.eval_shape(built.step.init, 0)
    loop = train_step.Loop(built.step.update)
    tally = jax.eval_shape(loop.empty_tally, state, hparams)
    return jax.make_jaxpr(loop.train)(state, tally, hparams, 0, 3)


def primitives(jaxpr):
    """All primitives of a jaxpr and of the jaxprs inside it."""
    counts = collections.Counter()
    for eqn in jaxpr.eqns:
        counts[eqn.primitive.name] += 1
        for value in eqn.params.values():
            for sub in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(sub, "jaxpr", sub)
                if hasattr(inner, "eqns"):
                    counts += primitives(inner)
    return counts


@pytest.mark.parametrize("collector", ["segment", "episode", "window"])
def test_the_training_program_has_no_callback_and_no_cond(collector):
    counts = primitives(program_jaxpr(members.load(trainer={"collector": collector})).jaxpr)
    assert not [name for name in counts if "callback" in name or "infeed" in name]
    assert counts["cond"] == 0
    assert counts["while"] == 2, "the loops over updates and over gradient steps"
    # rollout; Peng's targets; and the GRU: acting, online, its gradient, target
    assert counts["scan"] == 6
    assert counts["qr"] == counts["householder_product"] == 0


PQN = {**members.TINY["algo"], "name": "pqn", "algorithm": "pqn"}
KINDS = {
    "prioritised": {"replay": {"kind": "prioritised"}},
    "on_policy": {
        "algo": PQN,
        "replay": {"kind": "on_policy", "batch_size": 3, "capacity": None},
    },
}


@pytest.mark.parametrize(("kind", "scans"), [("prioritised", 6), ("on_policy", 5)])
def test_other_buffers_add_no_cond_and_no_loop(kind, scans):
    counts = primitives(program_jaxpr(members.load(**KINDS[kind])).jaxpr)
    assert (counts["cond"], counts["while"], counts["top_k"]) == (0, 2, 1)
    assert counts["scan"] == scans, "one unroll less without a target network"


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_states_the_bytes_of_every_buffer(kind):
    built = program.build(members.load(**KINDS[kind]))
    state = jax.eval_shape(built.step.init, 0).replay
    assert built.plan.replay_bytes == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert built.plan.capacity == (3 if kind == "on_policy" else 12)


def test_train_is_traced_once_for_all_chunk_lengths(monkeypatch):
    """`train` is traced once, whatever the number of calls and updates."""
    members.forget()
    traced = []
    original = program.train_step.accumulate
    monkeypatch.setattr(
        program.train_step, "accumulate", lambda *args: traced.append(1) or original(*args)
    )
    cfg = members.small()
    members.train(cfg, calls=(1,))
    n_traces = len(traced)
    assert n_traces >= 1
    members.train(cfg, calls=(2, 3, 1, 1))
    assert len(traced) == n_traces


def test_the_replay_is_updated_in_place():
    """The loop of the compiled program copies and allocates nothing as large as the ring."""
    cfg = members.load(replay={"batch_size": 4, "capacity": 3_000})
    built = program.build(cfg)
    hparams = program.hparams(cfg.hparams)
    state = jax.eval_shape(built.step.init, 0)
    loop = train_step.Loop(built.step.update)
    tally = jax.eval_shape(loop.empty_tally, state, hparams)
    train = jax.jit(loop.train, donate_argnums=(0, 1))
    compiled = train.lower(state, tally, hparams, jnp.int32(0), jnp.int32(3)).compile()
    ring = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state.replay))
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < ring / 2, "a copy of the ring would be in the temporaries"
    assert memory.alias_size_in_bytes >= ring, "the donated ring is the result"
    copies = re.findall(r"= \w+\[3000,[^\]]*\]\S* copy\(", compiled.as_text())
    assert not copies


def test_functions_shared_by_programs_are_traced_once():
    """An update is part of `train` and of the shapes of its metrics."""
    cfg = members.load()
    built = program.build(cfg)
    buffer, traces = built.step.buffer, collections.Counter()

    def counted(name):
        def call(*arguments):
            traces[name] += 1
            return getattr(buffer, name)(*arguments)

        return call

    counting = buffer._replace(init=counted("init"), add=counted("add"))
    step = built.step._replace(buffer=counting)
    places = population.make_layout(1, jax.devices()[:1], "map")
    population.compile_programs(
        built._replace(step=step),
        places,
        [0],
        [program.hparams(cfg.hparams)],
        cfg.precision,
        time.perf_counter,
    )
    assert traces == {"init": 1, "add": 1}


def test_no_key_is_used_twice(monkeypatch):
    """Every key that is consumed, split or folded in a run differs from all others of its use."""
    consumed, split, folded = [], [], []

    def record(into, key, index=None):
        data = jax.random.key_data(key)
        extra = jnp.zeros((), jnp.uint32) if index is None else jnp.asarray(index, jnp.uint32)
        jax.debug.callback(lambda d, e: into.append((*map(int, np.ravel(d)), int(e))), data, extra)

    def watch(name, into):
        original = getattr(jax.random, name)

        def wrapped(key, *args, **kwargs):
            record(into, key, args[0] if name == "fold_in" else None)
            return original(key, *args, **kwargs)

        monkeypatch.setattr(jax.random, name, wrapped)

    for name in ("uniform", "randint", "bernoulli", "normal"):
        watch(name, consumed)
    watch("split", split)
    watch("fold_in", folded)
    cfg = members.load(seed=5)
    built = program.build(cfg)
    hparams = program.hparams(cfg.hparams)

    def run(seed):
        state = built.step.init(seed)
        built.evaluate(state.key, state.learner.params, jnp.int32(0))
        loop = train_step.Loop(built.step.update)
        tally = loop.empty_tally(state, hparams)
        first, n_updates = jnp.int32(-built.plan.warm_up_collects), jnp.int32(4)
        return loop.train(state, tally, hparams, first, n_updates)

    for seed in (5, 6):
        jax.block_until_ready(jax.jit(run)(jnp.int32(seed))[1])
    jax.effects_barrier()
    assert len(consumed) > 400 and len(split) > 50
    assert len(set(consumed)) == len(consumed)
    assert len(set(split)) == len(split)
    # A member's key (0, seed) is folded into the same few streams repeatedly.
    events = [key for key in folded if key[:2] not in {(0, 5), (0, 6)}]
    assert len(set(events)) == len(events) > 60
    parents = {key[:-1] for key in folded}
    assert not parents & {key[:-1] for key in split}, "split and fold_in of one key coincide"
    assert not {key[:-1] for key in consumed} & ({key[:-1] for key in split} | parents)
