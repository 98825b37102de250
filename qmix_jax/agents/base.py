"""The agent contract and shared parts of agents."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from pydantic import Field

from qmix_jax import config
from qmix_jax.nn import functional, torso
from qmix_jax.types import Array, EnvSpec, Observed, Trajectory, no_action

Params = Any
Carry = Any
_T = TypeVar("_T")
_Several = Annotated[tuple[_T, ...], Field(min_length=1)]


class Agent(NamedTuple):
    """Maps local histories to one output vector per agent, which the algorithm interprets.

    Attributes:
      init: `(key) -> params`.
      initial_carry: `(batch_size) -> carry`.
      unroll: `(params, carry, Observed[T, B]) -> (carry, head f32[T, B, N, K], hidden f32[T, B, N,
        H])`. Zeroes the carry before steps that are `reset`; adds last-action and id features.
      stacked: unroll online and target parameters together (fewer, wider operations).
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    unroll: Callable[[Params, Carry, Observed], tuple[Carry, Array, Array]]
    stacked: bool = False


class CNNConfig(config.Model):
    """Options of the image torso: convolutions of stride 1 with relu, then one Dense-relu layer."""

    channels: _Several[config.PositiveInt] = (32, 32)
    """Output channels of each convolution."""
    kernel: config.PositiveInt = 3
    """Height and width of each convolution."""
    features: config.PositiveInt = 64
    """Width of the Dense layer."""


class Config(config.Model):
    """Options of all built-in agents."""

    hidden: config.PositiveInt = 64
    """Width of each hidden layer."""
    last_action: bool = True
    """Append the one-hot last action to the observation."""
    agent_id: bool = True
    """Append the one-hot agent id to the observation."""
    layer_norm: bool = False
    """LayerNorm before every relu."""
    torso: Literal["auto", "flat", "cnn"] = "auto"
    """cnn: convolutions over observations (height, width, channels); flat: flattened observations;
    auto: cnn for images, else flat."""
    cnn: CNNConfig = CNNConfig()
    """The convolutions of torso=cnn."""
    sharing: Literal["all", "none", "groups"] = "all"
    """Which agents share parameters; see `groups`."""
    groups: _Several[_Several[str]] | None = None
    """With sharing=groups, agent names of each group; None: the environment's groups, whose agents
    have the same observation and action sizes and the same role."""


def make(
    cfg: Config,
    spec: EnvSpec,
    network: nn.Module,
    zeros: Callable[..., Carry],
    stacked: bool = False,
) -> Agent:
    """Makes an agent from a network; adds features and parameter sharing.

    Args:
      network: `(carry, x f32[T, B, n, I], reset bool[T, B]) -> (carry, head f32[T, B, n, K],
        hidden f32[T, B, n, H])` for any number n of agents.
      zeros: `(*leading) -> carry`, the initial carry `[*leading, ...]`.
      stacked: as in `Agent`.
    Returns:
      An `Agent`. Unless all agents share parameters, these have a leading axis G, one entry per
      group; all groups run as one batched program.
    Raises: ConfigError for groups that are not a partition of the agents.
    """
    groups = sharing_groups(cfg, spec)
    network_init, network_apply = functional.pure(network)
    unroll_team = network_apply if len(groups) == 1 else _by_group(network_apply, groups)

    def inputs(observed: Observed) -> Array:
        obs = observed.obs.reshape(*observed.obs.shape[:3], -1)
        if spec.n_states is not None:
            obs = jax.nn.one_hot(obs[..., 0].astype(jnp.int32), spec.n_states, dtype=obs.dtype)
        last = spec.actions.features(observed.prev_actions) if cfg.last_action else None
        return features(obs, last, cfg.agent_id)

    def init_group(key: Array) -> Params:
        example = zero_observed(spec, 1, 1)
        return network_init(key, zeros(1, spec.n_agents), inputs(example), example.reset)

    def init(key: Array) -> Params:
        if len(groups) == 1:
            return init_group(key)
        return jax.vmap(init_group)(jax.random.split(key, len(groups)))

    def unroll(params: Params, carry: Carry, observed: Observed) -> tuple[Carry, Array, Array]:
        return unroll_team(params, carry, inputs(observed), observed.reset)

    return Agent(init, lambda batch_size: zeros(batch_size, spec.n_agents), unroll, stacked)


def zero_observed(spec: EnvSpec, *leading: int, mean_action: bool = False) -> Observed:
    """Returns an `Observed[*leading]` of zeros."""
    n, actions = spec.n_agents, spec.actions
    return Observed(
        obs=jnp.zeros((*leading, n, *spec.obs_shape)),
        prev_actions=jnp.zeros((*leading, *actions.shape), actions.dtype),
        reset=jnp.zeros(leading, bool),
        avail_actions=jnp.ones((*leading, n, actions.width), bool),
        mean_action=jnp.zeros((*leading, n, actions.width)) if mean_action else None,
    )


def make_torso(cfg: Config, spec: EnvSpec, names: tuple[str, ...]) -> torso.Torso:
    """Returns the layers from features to an embedding, with Dense layers `names`.

    Raises: ConfigError for torso=cnn unless observations are images.
    """
    is_image = len(spec.obs_shape) == 3
    if cfg.torso == "cnn" and not is_image:
        raise config.ConfigError(
            "agent: agent.options.torso=cnn needs observations (height, width, channels), and "
            f"{spec.name} has {spec.obs_shape}; use auto or flat"
        )
    image = None
    if is_image and cfg.torso != "flat":
        image = torso.CNNSpec(spec.obs_shape, **cfg.cnn.model_dump())
    return torso.Torso(names, cfg.hidden, cfg.layer_norm, image)


def sharing_groups(cfg: Config, spec: EnvSpec) -> tuple[tuple[int, ...], ...]:
    """Returns the indices of the agents that share parameters, per group.

    Raises: ConfigError if `cfg.groups` is not a partition of the agents, or without sharing=groups.
    """
    if cfg.groups is not None:
        return _named_groups(cfg, spec)
    agents = range(spec.n_agents)
    labels = {"all": [0] * spec.n_agents, "none": agents, "groups": spec.agent_groups}[cfg.sharing]
    return tuple(tuple(i for i in agents if labels[i] == label) for label in dict.fromkeys(labels))


def _named_groups(cfg: Config, spec: EnvSpec) -> tuple[tuple[int, ...], ...]:
    groups, names = cfg.groups or (), spec.agent_names
    where = f"agent: agent.options.groups={[list(group) for group in groups]}"
    if cfg.sharing != "groups":
        raise config.ConfigError(
            f"{where} with sharing={cfg.sharing}; set sharing=groups, or groups=null"
        )
    members = [name for group in groups for name in group]
    for name in dict.fromkeys((*members, *names)):
        if name not in names:
            hint = config.suggest(name, names)
            raise config.ConfigError(f"{where}: {spec.name} has no agent {name!r}; {hint}")
        if members.count(name) != 1:
            times = "in no group" if name not in members else "listed more than once"
            raise config.ConfigError(f"{where}: {name!r} is {times}; list every agent once")
    return tuple(tuple(names.index(name) for name in group) for group in groups)


def _by_group(unroll: Callable[..., Any], groups: tuple[tuple[int, ...], ...]) -> Callable:
    """Batches the unroll of one group over groups: parameters `[G, ...]`, inputs of all N agents.

    Pads groups to the largest with copies of their first agent, whose results are dropped.
    """
    largest = max(map(len, groups))
    slots = np.array([[*group, *[group[0]] * (largest - len(group))] for group in groups])
    first_slot_of = np.unique(slots, return_index=True)[1]
    batched = jax.vmap(unroll, in_axes=(0, 1, 2, None), out_axes=(1, 2, 2))

    def split(x: Array, axis: int) -> Array:
        shape = (*x.shape[:axis], *slots.shape, *x.shape[axis + 1 :])
        return _take(x, slots.ravel(), axis).reshape(shape)

    def merge(x: Array, axis: int) -> Array:
        shape = (*x.shape[:axis], slots.size, *x.shape[axis + 2 :])
        return _take(x.reshape(shape), first_slot_of, axis)

    def unroll_all(
        params: Params, carry: Carry, x: Array, reset: Array
    ) -> tuple[Carry, Array, Array]:
        carry = jax.tree.map(lambda leaf: split(leaf, 1), carry)
        carry, head, hidden = batched(params, carry, split(x, 2), reset)
        return jax.tree.map(lambda leaf: merge(leaf, 1), carry), merge(head, 2), merge(hidden, 2)

    return unroll_all


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    """`jnp.take`, or `x` if `index` is the identity."""
    if np.array_equal(index, np.arange(x.shape[axis])):
        return x
    return jnp.take(x, index, axis=axis, mode="clip")


def features(obs: Array, last_action: Array | None, agent_id: bool) -> Array:
    """Concatenates the observation, the last action and the one-hot agent id.

    Args:
      obs: f32[..., N, O].
      last_action: f32[..., N, A], features of the last actions; None to omit them.
      agent_id: whether to append the id.
    Returns:
      f32[..., N, O (+ A) (+ N)].
    """
    parts = [obs]
    if last_action is not None:
        parts.append(last_action.astype(obs.dtype))
    if agent_id:
        n_agents = obs.shape[-2]
        ids = jnp.eye(n_agents, dtype=obs.dtype)
        parts.append(jnp.broadcast_to(ids, (*obs.shape[:-1], n_agents)))
    return jnp.concatenate(parts, axis=-1)


def previous_actions(actions: Array, reset: Array, first: Array | None = None) -> Array:
    """Rebuilds the previous actions from the stored actions.

    Args:
      actions: i32[T, B, N] or f32[T, B, N, D].
      reset: bool[T+1, B], True where an episode starts.
      first: [B, N, ...], previous actions of the first entry; None if all episodes start there.
    Returns:
      i32[T+1, B, N] or f32[T+1, B, N, D], `no_action` wherever `reset`.
    """
    none = no_action(actions[:1])
    taken = jnp.concatenate([none if first is None else first[None], actions])
    at_reset = jnp.expand_dims(reset, range(2, taken.ndim))
    return jnp.where(at_reset, no_action(taken), taken)


class Unrolled(NamedTuple):
    """Outputs over sequences: head f32[T+1, B, N, K] (a Q-learner's utilities) and hidden f32[T+1,
    B, N, H].
    """

    head: Array
    hidden: Array


def observed(trajectory: Trajectory) -> Observed:
    """Returns the inputs of the agents, `[T+1, B, ...]`, with rebuilt previous actions."""
    start = trajectory.start
    mean_action = trajectory.mean_action
    if mean_action is not None:
        first = start.mean_action if start is not None else None
        first = jnp.zeros_like(mean_action[:1]) if first is None else first[None]
        shifted = jnp.concatenate([first, mean_action])
        mean_action = jnp.where(trajectory.reset[..., None, None], 0.0, shifted)
    return Observed(
        obs=trajectory.obs,
        prev_actions=previous_actions(
            trajectory.actions, trajectory.reset, start.prev_actions if start else None
        ),
        reset=trajectory.reset,
        avail_actions=trajectory.avail_actions,
        mean_action=mean_action,
    )


def unroll(agent: Agent, params: Params, trajectory: Trajectory, carry: str = "act") -> Unrolled:
    """Unrolls one network over a batch of sequences, from their starts.

    Args:
      params: of the agent.
      trajectory: `[T+1, B, ...]`.
      carry: which stored carry belongs to the agent, `act` or `learn`.
    """
    return _unroll_over(agent, trajectory, carry)(params)


def unroll_pair(
    agent: Agent,
    params: Params,
    target_params: Params,
    trajectory: Trajectory,
    carry: str = "act",
) -> tuple[Unrolled, Unrolled]:
    """Unrolls online and target network over a batch of sequences, from their starts.

    Args:
      params, target_params: of the agent.
      trajectory: `[T+1, B, ...]`.
      carry: which stored carry belongs to the agent, `act` or `learn`.
    Returns:
      (online, target). No gradient flows through the target.
    """
    outputs = _unroll_over(agent, trajectory, carry)
    if not agent.stacked:
        return outputs(params), jax.lax.stop_gradient(outputs(target_params))
    both = jax.tree.map(
        lambda p, t: jnp.stack([p, jax.lax.stop_gradient(t)]), params, target_params
    )
    head, hidden = jax.vmap(outputs)(both)
    return Unrolled(head[0], hidden[0]), jax.lax.stop_gradient(Unrolled(head[1], hidden[1]))


def _unroll_over(agent: Agent, trajectory: Trajectory, carry: str) -> Callable[[Params], Unrolled]:
    inputs, start = observed(trajectory), trajectory.start
    first = agent.initial_carry(inputs.reset.shape[1]) if start is None else start.carry[carry]
    return lambda params: Unrolled(*agent.unroll(params, first, inputs)[1:])


def step(
    agent: Agent, params: Params, carry: Carry, observed: Observed
) -> tuple[Carry, Array, Array]:
    """Steps every environment: `unroll` with T = 1, so that acting and learning cannot differ.

    Args:
      observed: `[B, ...]`.
    Returns:
      (carry, head f32[B, N, K], hidden f32[B, N, H]).
    """
    carry, head, hidden = agent.unroll(params, carry, jax.tree.map(lambda x: x[None], observed))
    return carry, head[0], hidden[0]


def in_bfloat16(agent: Agent) -> Agent:
    """Returns the agent computing in bfloat16; parameters, inputs and outputs stay f32."""

    def unroll(params: Params, carry: Carry, observed: Observed) -> tuple[Carry, Array, Array]:
        params, carry, obs = functional.cast((params, carry, observed.obs), jnp.bfloat16)
        outputs = agent.unroll(params, carry, replace(observed, obs=obs))
        return functional.cast(outputs, jnp.float32)

    return agent._replace(unroll=unroll)
