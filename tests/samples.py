"""Random inputs of networks and losses, drawn in NumPy, and hyperparameters.

Sequences are as collectors store them, written as one mark per step: `.` the episode continues, `t`
the action terminated it, `x` it reached the time limit, `h` its end entry, `-` padding.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qmix_jax import components
from qmix_jax.algorithms import base
from qmix_jax.types import (
    Batch,
    Clock,
    Discrete,
    EnvSpec,
    HParams,
    Observed,
    Schedule,
    Trajectory,
)

SPEC = EnvSpec(
    name="random",
    agent_names=("agent_0", "agent_1"),
    agent_groups=(0, 1),
    actions=Discrete((3, 2)),
    obs_shapes=((4,), (4,)),
    obs_shape=(4,),
    state_size=5,
    max_steps=7,
    agent_state=np.array([[0, 1], [2, 3]], np.int32),
)
SEGMENTS = ("..t.xh.", "txh....", ".xh..tx")
EPISODES = ("..t----", "....x--", "......x")
FORMS = ("segment", "episode")
ALGORITHMS = components.names("algorithms")


def batch(form, seed=0):
    """Three sequences of seven steps with weights other than 1; padding is random too.

    Args:
      form: `segment` (episodes joined by `reset`; the end of a truncated one has its own entry)
        or `episode` (one episode each, then padding).
      seed: of all contents.
    """
    marks = np.array([list(row) for row in (SEGMENTS if form == "segment" else EPISODES)]).T
    rng = np.random.default_rng(seed)
    t, b = marks.shape
    n, a = SPEC.n_agents, SPEC.actions.width
    reset = np.zeros((t + 1, b), bool)
    reset[0] = True
    if form == "segment":
        reset[1:] = (marks == "t") | (marks == "h")
    avail = random_avail(rng, (t + 1, b))
    return Batch(
        trajectory=Trajectory(
            obs=normal(rng, t + 1, b, n, *SPEC.obs_shape),
            state=normal(rng, t + 1, b, SPEC.state_size),
            avail_actions=avail,
            reset=reset,
            actions=np.argmax(avail[:-1] * rng.random((t, b, n, a)), axis=-1).astype(np.int32),
            reward=normal(rng, t, b),
            terminated=marks == "t",
            valid=(marks != "h") & (marks != "-"),
        ),
        weight=np.array([0.5, 1.0, 2.0], np.float32),
        index=np.arange(b, dtype=np.int32),
    )


def with_other_invalid_contents(original, seed=1):
    """Returns the batch with different contents wherever no valid step depends on them.

    Invalid steps get other actions, the opposite `terminated` and rewards that are not numbers;
    entries that are neither part of a valid step nor its successor, nor history of one, get other
    observations, states and masks, of another magnitude.
    """
    rng = np.random.default_rng(seed)
    old = original.trajectory
    t, b = old.valid.shape
    unneeded = ~_needed(old)

    def other(values, replacement, mask):
        mask = mask.reshape(mask.shape + (1,) * (values.ndim - 2))
        return np.where(mask, replacement, values)

    actions = (old.actions + 1) % np.array(SPEC.actions.sizes, np.int32)
    changed = replace(
        old,
        obs=other(old.obs, 30 * normal(rng, *old.obs.shape), unneeded),
        state=other(old.state, 30 * normal(rng, *old.state.shape), unneeded),
        avail_actions=other(old.avail_actions, random_avail(rng, (t + 1, b)), unneeded),
        actions=other(old.actions, actions, ~old.valid),
        reward=other(old.reward, np.float32("nan"), ~old.valid),
        terminated=old.terminated ^ ~old.valid,
    )
    # Joined episodes need every entry; entries after the end of a single episode are unneeded.
    joined = old.reset[1:].any()
    assert (~old.valid).any() and unneeded.any() == (not joined)
    return replace(original, trajectory=changed)


def _needed(trajectory):
    """bool[T+1, B], entries that a valid step acts on, bootstraps from, or remembers."""
    valid, terminated, reset = trajectory.valid, trajectory.terminated, trajectory.reset
    needed = np.zeros(reset.shape, bool)
    needed[:-1] |= valid
    needed[1:] |= valid & ~terminated
    for t in reversed(range(len(valid))):
        needed[t] |= needed[t + 1] & ~reset[t + 1]
    return needed


def component(kind, name, options=None, *context):
    """Makes the component for `SPEC`; `context` are the arguments of `make` after the spec."""
    module = components.find(kind, name)
    if kind == "agents":
        context = (SPEC.actions.width,)
    return module.make(module.Config.model_validate(dict(options or {})), SPEC, *context)


def algorithm(name, options, agent, mixer, spec=SPEC, optimiser=None):
    """Makes an algorithm with these networks; without optimiser a step is the gradient."""
    module = components.find("algorithms", name)
    parts = base.Components(lambda width: agent, mixer, optimiser or optax.identity())
    return module.make(module.Config.model_validate(dict(options or {})), spec, parts)


CLOCK = Clock(
    update_index=jnp.int32(0),
    gradient_step=jnp.int32(0),
    env_steps=jnp.float32(0),
    n_added=jnp.int32(0),
)


def clock(gradient_step):
    """Returns the clock at the start of a run, with this gradient step."""
    return replace(CLOCK, gradient_step=jnp.int32(gradient_step))


def loss(algo):
    """Returns `(params, target_params, batch, hparams) -> (loss, LossAux)` of a single phase."""
    (phase,) = algo.learner.phases

    def call(params, target_params, batch, hparams):
        key = jax.random.key(3)
        return phase.loss(params, target_params, batch, hparams, CLOCK, jnp.int32(0), key)

    return call


def targets(algo, params):
    """Returns the parameters that have a target copy."""
    return {name: params[name] for name in algo.learner.init(params).target_params}


def observed(obs, prev_actions, reset, avail=None):
    """Returns an `Observed`; all actions are available by default."""
    avail = np.ones((*obs.shape[: prev_actions.ndim], 1), bool) if avail is None else avail
    return Observed(obs=obs, prev_actions=prev_actions, reset=reset, avail_actions=avail)


def at_start(algo, params, obs, state, actions):
    """Inspects joint actions [J, N] at the start of an episode, name -> [J, ...]."""
    entries = (2, len(actions))
    n, width = obs.shape[0], int(np.max(actions)) + 1
    flags = np.ones(entries, bool)
    trajectory = Trajectory(
        obs=jnp.broadcast_to(obs, (*entries, *obs.shape)),
        state=jnp.broadcast_to(state, (*entries, *state.shape)),
        avail_actions=np.ones((*entries, n, width), bool),
        reset=flags,
        actions=jnp.asarray(actions, jnp.int32)[None],
        reward=jnp.zeros((1, len(actions))),
        terminated=flags[:1],
        valid=flags[:1],
    )
    return {name: values[0] for name, values in algo.inspect(params, trajectory).items()}


def live_carry(agent, batch_size=3):
    """A carry in the middle of an episode; `agent` has an `initial_carry`."""
    return jax.tree.map(lambda x: 0.3 * jnp.ones_like(x), agent.initial_carry(batch_size))


VARIANTS = {
    "qtran": ({"variant": "base"}, {"variant": "alt"}),
    "wqmix": ({"weighting": "centrally"}, {"weighting": "optimistically"}),
}
"""Modules that are several algorithms: their options, the defaults first."""


jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""For functions that run a few times only: compiles in a third of the time."""


def coefficients():
    """Returns coefficients of all algorithms, `hparams.algo`, that differ from their defaults."""
    modules = (components.find("algorithms", name) for name in ALGORITHMS)
    models = [module.Coefficients for module in modules if hasattr(module, "Coefficients")]
    return {name: 0.7 * value for model in models for name, value in model().model_dump().items()}


def signature(tree):
    """Replaces every array of a tree by (shape, dtype)."""
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def normal(rng, *shape):
    """f32 standard normals."""
    return rng.standard_normal(shape, dtype=np.float32)


def params(init, seed=0):
    """Returns random nonzero parameters with the shapes of `init(key)`."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return treedef.unflatten([0.5 * normal(rng, *leaf.shape) for leaf in leaves])


def random_avail(rng, leading):
    """bool[*leading, N, A]: half of the existing actions, at least one."""
    shape = (*leading, SPEC.n_agents, SPEC.actions.width)
    exists = SPEC.actions.exists
    certain = np.argmax(exists * rng.random(shape), axis=-1)
    drawn = (rng.random(shape) < 0.5) & exists
    return drawn | (np.arange(SPEC.actions.width) == certain[..., None])


def constant(value):
    """Returns a constant schedule."""
    return Schedule(start=jnp.float32(value), end=jnp.float32(value), steps=jnp.float32(1.0))


def hparams(**changes):
    """Returns hyperparameters that differ from all defaults, so that omitting one is noticed."""
    values = {
        "learning_rate": 0.1,
        "epsilon": 0.3,
        "gamma": 0.9,
        "td_lambda": 0.4,
        "reward_scale": 3.0,
        "max_grad_norm": 1e9,
        "target_period": 3,
        "target_tau": 1.0,
        "huber_delta": 0.5,
        "algo": coefficients(),
        **changes,
    }
    schedules = {
        name: values[name] if isinstance(values[name], Schedule) else constant(values[name])
        for name in ("learning_rate", "epsilon")
    }
    return HParams(**jax.tree.map(jnp.float32, {**values, **schedules}))
