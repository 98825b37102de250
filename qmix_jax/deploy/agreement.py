"""Compares an exported policy with the algorithm of its run."""

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
"""Precision -> tolerance for actions, heads and probabilities; 1e-5 for all others."""
_SIGMAS = 8.0
_SEED = 0


class ReferenceRollout(NamedTuple):
    """Inputs and outputs of `Algorithm.act`: T steps of B environments with random inputs, in which
    episodes start at random; NumPy arrays.

    Attributes:
      obs: f32[T, B, N, *O].  avail: bool[T, B, N, A].  reset: bool[T, B].
      previous: the last actions, [T, B, N, ...].
      actions: [T, B, N, ...].
      head: f32[T, B, N, A], output of the agent's network; None if the algorithm states no head.
      counts: f32[T, B, N, A], frequency of each action in `_DRAWS` further draws; None if the
        algorithm does not sample from its head.
      head_kind: `Algorithm.head`.
      tolerance: absolute, for values of size 1.
    """

    obs: np.ndarray
    avail: np.ndarray
    reset: np.ndarray
    previous: np.ndarray
    actions: np.ndarray
    head: np.ndarray | None
    counts: np.ndarray | None
    head_kind: str | None
    tolerance: float


def reference_rollout(run: trained.TrainedRun, member: int) -> ReferenceRollout:
    """Runs `Algorithm.act` of a member with the keys that a policy derives from seed 0."""
    algorithm, spec, params = policy.make_algorithm(run), run.spec, run.member_params(member)
    head_of = policy.make_head(run, algorithm)
    obs, avail, reset = _random_inputs(spec)

    @jax.jit
    def act(params: Any, carry: Any, observed: Observed, key: Any) -> Any:
        new_carry, actions, _ = algorithm.act(params, carry, observed, algorithm.greedy, key)
        return new_carry, actions, head_of and head_of(params, carry, observed)

    @jax.jit
    def count(params: Any, carry: Any, observed: Observed, keys: Any) -> Any:
        drawn = jax.vmap(lambda key: act(params, carry, observed, key)[1])(keys)
        return jnp.sum(jax.nn.one_hot(drawn, spec.actions.width), axis=0)

    key_data = jnp.array([0, _SEED], jnp.uint32)
    carry = algorithm.initial_carry(_ENVS)["act"]
    no_actions = jnp.broadcast_to(spec.actions.none(), (_ENVS, *spec.actions.shape))
    actions = no_actions
    steps: dict[str, list[Any]] = {"previous": [], "actions": [], "head": [], "counts": []}
    for t in range(_STEPS):
        steps["previous"].append(actions)
        starts = jnp.expand_dims(reset[t], range(1, actions.ndim))
        observed = Observed(
            obs=obs[t],
            prev_actions=jnp.where(starts, no_actions, actions),
            reset=reset[t],
            avail_actions=avail[t],
        )
        key = jax.random.key(t)  # unused by deterministic algorithms
        if policy.is_stochastic(algorithm):
            state, key = policy.next_key(key_data)
            key_data = state[policy.KEY]
        if algorithm.head == "sample":
            keys = jax.random.split(jax.random.key(t), _DRAWS)
            steps["counts"].append(count(params, carry, observed, keys))
        carry, actions, head = act(params, carry, observed, key)
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
        head_kind=algorithm.head,
        tolerance=_TOLERANCE.get(run.config.precision, 1e-5),
    )


def _random_inputs(spec: EnvSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(obs, avail_actions, reset) for `_STEPS` steps of `_ENVS` environments."""
    rng = np.random.default_rng(_SEED)
    shape = (_STEPS, _ENVS, spec.n_agents, *spec.obs_shape)
    if spec.n_states is not None:
        obs = rng.integers(spec.n_states, size=shape)
    elif spec.obs_bounds is not None and None not in spec.obs_bounds:
        obs = rng.uniform(*spec.obs_bounds, size=shape)
    else:
        obs = rng.normal(size=shape)
    for i, obs_shape in enumerate(spec.obs_shapes):
        unpadded = np.zeros(spec.obs_shape, bool)
        unpadded[tuple(map(slice, obs_shape))] = True
        obs[:, :, i] = np.where(unpadded, obs[:, :, i], 0)
    avail = exists = np.broadcast_to(spec.actions.exists, (*shape[:3], spec.actions.width))
    if not isinstance(spec.actions, Box):
        drawn = rng.random(exists.shape) * exists
        avail = exists & ((drawn > 0.4) | (drawn == drawn.max(axis=-1, keepdims=True)))
    reset = rng.random(shape[:2]) < 0.2
    reset[0] = True
    return obs.astype(np.float32), avail, reset


def difference(
    reference: ReferenceRollout,
    about: Mapping[str, Any],
    step: runner.Step,
    compare_probabilities: bool = False,
) -> str | None:
    """Describes how a step differs from the algorithm; None if they agree.

    Args:
      reference: of the algorithm.
      about: see `policy.about`.
      step: of the exported format.
      compare_probabilities: if the algorithm samples, compares action probabilities instead of
        actions: for a step that draws other random numbers from the same key.
    """
    state = runner.make_policy(about, step).initial_state(_ENVS, seed=_SEED).arrays
    actions, heads = [], []
    for t in range(_STEPS):
        overrides = {policy.RESET: reference.reset[t], policy.PREVIOUS: reference.previous[t]}
        joint, head, state = step(reference.obs[t], reference.avail[t], {**state, **overrides})
        actions.append(np.asarray(joint))
        heads.append(head)
    if reference.head is not None:
        error = _head_error(reference, np.stack(heads), reference.head)
        if error > reference.tolerance:
            return f"its network outputs differ by {error:.2g}"
    if reference.counts is not None and compare_probabilities:
        return _compare_counts(reference, np.stack(heads))
    return _compare_actions(reference, np.stack(actions))


def _head_error(reference: ReferenceRollout, head: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of probabilities, or of heads relative to the largest entry."""
    if reference.head_kind == "sample":
        avail = reference.avail
        return float(np.max(np.abs(_softmax(head, avail) - _softmax(expected, avail))))
    return float(np.max(np.abs(head - expected))) / _scale(expected)


def _scale(values: Any) -> float:
    return max(1.0, float(np.max(np.abs(values))))


def _compare_actions(reference: ReferenceRollout, actions: np.ndarray) -> str | None:
    """Compares actions, except for rounding and ties of utilities."""
    if actions.dtype.kind == "f":
        error = float(np.max(np.abs(actions - reference.actions))) / _scale(reference.actions)
        return f"its actions differ by {error:.2g}" if error > reference.tolerance else None
    differ = actions != reference.actions
    if reference.head_kind == "argmax" and reference.head is not None:
        value, expected = (
            np.take_along_axis(reference.head, joint[..., None], axis=-1)[..., 0]
            for joint in (actions, reference.actions)
        )
        differ &= np.abs(value - expected) > reference.tolerance * _scale(reference.head)
    return f"{differ.sum()} of its {differ.size} actions differ" if differ.any() else None


def _compare_counts(reference: ReferenceRollout, heads: np.ndarray) -> str | None:
    """Chi-square test of the algorithm's action counts against the softmax of the heads."""
    expected = _DRAWS * _softmax(heads, reference.avail)
    # Below five expected counts the statistic has long tails, so it is shrunk there.
    statistic = np.sum((reference.counts - expected) ** 2 / np.maximum(expected, 5.0))
    freedom = reference.avail.sum() - reference.avail.any(axis=-1).sum()
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
