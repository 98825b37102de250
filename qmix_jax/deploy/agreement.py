"""Whether an exported policy acts as the run's algorithm does."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.deploy import policy, runner, trained
from qmix_jax.types import Box, EnvSpec, Observed

_STEPS, _ENVS = 8, 8
_DRAWS = 4096
_TOLERANCE = {"bfloat16": 2e-2}
"""Of actions, heads and probabilities, by precision; 1e-5 for all others."""
_SIGMAS = 8.0
_SEED = 0


class ReferenceRollout(NamedTuple):
    """What `Algorithm.act` did on random inputs, T steps of B environments with new episodes
    inside; NumPy arrays.

    Attributes:
      obs: f32[T, B, N, *O].  avail: bool[T, B, N, A].  reset: bool[T, B].
      previous: [T, B, N, ...], the last actions.
      actions: [T, B, N, ...].
      head: f32[T, B, N, A], what the agent's network gave; None where the algorithm names no head.
      counts: f32[T, B, N, A], how often each action was chosen in `_DRAWS` further draws; None
        where the algorithm does not sample from its head.
      kind: `Algorithm.head`.
      tolerance: absolute, for numbers of size 1.
    """

    obs: np.ndarray
    avail: np.ndarray
    reset: np.ndarray
    previous: np.ndarray
    actions: np.ndarray
    head: np.ndarray | None
    counts: np.ndarray | None
    kind: str | None
    tolerance: float


def play(run: trained.TrainedRun, member: int) -> ReferenceRollout:
    """`Algorithm.act` of a member, with the keys that a policy draws from the seed 0."""
    algorithm, spec, params = policy.acting(run), run.spec, run.own(member)
    head_of = policy.make_head(run, algorithm)
    obs, avail, reset = _inputs(spec)

    @jax.jit
    def act(params: Any, carry: Any, seen: Observed, key: Any) -> Any:
        after, actions, _ = algorithm.act(params, carry, seen, algorithm.greedy, key)
        return after, actions, head_of and head_of(params, carry, seen)

    @jax.jit
    def count(params: Any, carry: Any, seen: Observed, keys: Any) -> Any:
        drawn = jax.vmap(lambda key: act(params, carry, seen, key)[1])(keys)
        return jnp.sum(jax.nn.one_hot(drawn, spec.actions.width), axis=0)

    data = jnp.array([0, _SEED], jnp.uint32)
    carry = algorithm.initial_carry(_ENVS)["act"]
    none = jnp.broadcast_to(spec.actions.none(), (_ENVS, *spec.actions.shape))
    actions = none
    steps: dict[str, list[Any]] = {"previous": [], "actions": [], "head": [], "counts": []}
    for t in range(_STEPS):
        steps["previous"].append(actions)
        starts = jnp.expand_dims(reset[t], range(1, actions.ndim))
        seen = Observed(
            obs=obs[t],
            prev_actions=jnp.where(starts, none, actions),
            reset=reset[t],
            avail_actions=avail[t],
        )
        key = jax.random.key(t)  # of an algorithm that draws nothing, which must not matter
        if policy.draws(algorithm):
            following, key = policy.next_key(data)
            data = following[policy.KEY]
        if algorithm.head == "sample":
            keys = jax.random.split(jax.random.key(t), _DRAWS)
            steps["counts"].append(count(params, carry, seen, keys))
        carry, actions, head = act(params, carry, seen, key)
        steps["actions"].append(actions)
        steps["head"].append(head)
    return ReferenceRollout(
        obs=obs,
        avail=avail,
        reset=reset,
        previous=np.stack(steps["previous"]),
        actions=np.stack(steps["actions"]),
        head=None if head_of is None else np.stack(steps["head"]),
        counts=np.stack(steps["counts"]) if steps["counts"] else None,
        kind=algorithm.head,
        tolerance=_TOLERANCE.get(run.config.precision, 1e-5),
    )


def _inputs(spec: EnvSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(obs, avail_actions, reset) of `_STEPS * _ENVS` random inputs."""
    rng = np.random.default_rng(_SEED)
    shape = (_STEPS, _ENVS, spec.n_agents, *spec.obs_shape)
    if spec.n_states is not None:
        obs = rng.integers(spec.n_states, size=shape)
    elif spec.obs_bounds is not None and None not in spec.obs_bounds:
        obs = rng.uniform(*spec.obs_bounds, size=shape)
    else:
        obs = rng.normal(size=shape)
    for i, own in enumerate(spec.obs_shapes):
        held = np.zeros(spec.obs_shape, bool)
        held[tuple(map(slice, own))] = True
        obs[:, :, i] = np.where(held, obs[:, :, i], 0)
    exists = np.broadcast_to(spec.actions.exists, (*shape[:3], spec.actions.width))
    avail = exists
    if not isinstance(spec.actions, Box):
        drawn = rng.random(exists.shape) * exists
        avail = exists & ((drawn > 0.4) | (drawn == drawn.max(axis=-1, keepdims=True)))
    reset = rng.random(shape[:2]) < 0.2
    reset[0] = True
    return obs.astype(np.float32), avail, reset


def difference(
    played: ReferenceRollout, about: Mapping[str, Any], step: runner.Step, other_draws: bool = False
) -> str | None:
    """How a format acts unlike the algorithm; None if it acts alike.

    Args:
      played: what the algorithm did.
      about: as `policy.about` gives it.
      step: the format's.
      other_draws: it draws other numbers from the same key, so that only its probabilities can be
        compared.
    """
    state = runner.make(about, step).initial_state(_ENVS, seed=_SEED).arrays
    actions, heads = [], []
    for t in range(_STEPS):
        now = {**state, policy.RESET: played.reset[t], policy.PREVIOUS: played.previous[t]}
        chosen, head, state = step(played.obs[t], played.avail[t], now)
        actions.append(np.asarray(chosen))
        heads.append(head)
    if played.head is not None:
        error = _error(played, np.stack(heads), played.head)
        if error > played.tolerance:
            return f"its network's outputs differ by {error:.2g}"
    if played.counts is not None and other_draws:
        return _other_frequencies(played, np.stack(heads))
    return _other_actions(played, np.stack(actions))


def _error(played: ReferenceRollout, head: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of probabilities, or of heads in units of the largest entry."""
    if played.kind == "sample":
        return float(
            np.max(np.abs(_softmax(head, played.avail) - _softmax(expected, played.avail)))
        )
    return float(np.max(np.abs(head - expected))) / _scale(expected)


def _scale(values: Any) -> float:
    return max(1.0, float(np.max(np.abs(values))))


def _other_actions(played: ReferenceRollout, actions: np.ndarray) -> str | None:
    """Actions that differ, but for ties of utilities and for rounding."""
    if actions.dtype.kind == "f":
        error = float(np.max(np.abs(actions - played.actions))) / _scale(played.actions)
        return f"its actions differ by {error:.2g}" if error > played.tolerance else None
    differ = actions != played.actions
    if played.kind == "argmax" and played.head is not None:
        chosen, expected = (
            np.take_along_axis(played.head, joint[..., None], axis=-1)[..., 0]
            for joint in (actions, played.actions)
        )
        differ &= np.abs(chosen - expected) > played.tolerance * _scale(played.head)
    return f"{differ.sum()} of its {differ.size} actions differ" if differ.any() else None


def _other_frequencies(played: ReferenceRollout, heads: np.ndarray) -> str | None:
    """Probabilities unlike how often the algorithm chooses, by a chi-square test."""
    expected = _DRAWS * _softmax(heads, played.avail)
    # Below five expected the statistic has long tails: there it shrinks.
    statistic = np.sum((played.counts - expected) ** 2 / np.maximum(expected, 5.0))
    freedom = played.avail.sum() - played.avail.any(axis=-1).sum()
    if statistic <= freedom + _SIGMAS * np.sqrt(2.0 * max(freedom, 1)):
        return None
    return (
        "the algorithm does not sample from the softmax of its head (chi-square "
        f"{statistic:.0f} at {freedom} degrees of freedom)"
    )


def _softmax(head: np.ndarray, avail: np.ndarray) -> np.ndarray:
    masked = np.where(avail, head, -np.inf)
    weights = np.exp(masked - masked.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
