"""The agent contract and what agents share."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from pydantic import Field

from qmix_jax import config
from qmix_jax.nn import functional, torso
from qmix_jax.types import Array, EnvSpec, Start, Trajectory

Params = Any
Carry = Any
_T = TypeVar("_T")
_Several = Annotated[tuple[_T, ...], Field(min_length=1)]


class Agent(NamedTuple):
    """Per-agent utilities from local histories.

    Attributes:
      init: `(key) -> params`.
      initial_carry: `(batch_size) -> carry`.
      unroll: `(params, carry, obs f32[T, B, N, *O], prev_actions i32[T, B, N], reset bool[T, B])
        -> (carry, q f32[T, B, N, A], hidden f32[T, B, N, H])`. The carry is zeroed before steps
        that are `reset`; the agent adds last-action and id features itself (action -1 means none).
      stacked: unroll online and target parameters together (fewer, wider operations).
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    unroll: Callable[[Params, Carry, Array, Array, Array], tuple[Carry, Array, Array]]
    stacked: bool = False


class Convolutions(config.Model):
    """How images are read: convolutions of stride 1 with relu, then one Dense-relu layer."""

    channels: _Several[config.PositiveInt] = (32, 32)
    """Output channels of each convolution."""
    kernel: config.PositiveInt = 3
    """Height and width of each convolution."""
    features: config.PositiveInt = 64
    """Width of the Dense layer."""


class Config(config.Model):
    """Options of every agent that ships."""

    hidden: config.PositiveInt = 64
    """Width of each hidden layer."""
    last_action: bool = True
    """Append the one-hot last action to the observation."""
    agent_id: bool = True
    """Append the one-hot agent id to the observation."""
    layer_norm: bool = False
    """LayerNorm before every relu."""
    torso: Literal["auto", "flat", "cnn"] = "auto"
    """cnn: convolutions over observations (height, width, channels); flat: their entries in a row;
    auto: cnn for such observations, else flat."""
    cnn: Convolutions = Convolutions()
    """The convolutions, where there are any."""
    sharing: Literal["all", "none", "groups"] = "all"
    """Which agents share parameters; see `groups`."""
    groups: _Several[_Several[str]] | None = None
    """With sharing=groups, names of the agents of each group; None: the environment's groups, whose
    agents have the same observation and action sizes and the same role."""


def make(
    cfg: Config,
    spec: EnvSpec,
    network: nn.Module,
    zeros: Callable[..., Carry],
    stacked: bool = False,
) -> Agent:
    """The agent of a network, with its features and its sharing of parameters.

    Args:
      network: `(carry, x f32[T, B, n, I], reset bool[T, B]) -> (carry, q f32[T, B, n, A], hidden
        f32[T, B, n, H])` for any number n of agents.
      zeros: `(*leading) -> carry`, the initial one, `[*leading, ...]`.
      stacked: as in `Agent`.
    Returns:
      An `Agent` with parameters as `network` has them where all agents share them, else with a
      leading axis G, one entry per group. All groups run as one batched program.
    Raises: ConfigError for groups that are not a partition of the agents.
    """
    groups = sharing_groups(cfg, spec)
    network_init, network_apply = functional.pure(network)
    unroll_team = network_apply if len(groups) == 1 else _by_group(network_apply, groups)

    def inputs(obs: Array, prev_actions: Array) -> Array:
        flat = obs.reshape(*prev_actions.shape, -1)
        return features(flat, prev_actions, spec.n_actions_max, cfg.last_action, cfg.agent_id)

    def init_one(key: Array) -> Params:
        leading = (1, 1, spec.n_agents)
        x = inputs(jnp.zeros((*leading, *spec.obs_shape)), jnp.zeros(leading, jnp.int32))
        return network_init(key, zeros(*leading[1:]), x, jnp.zeros((1, 1), bool))

    def init(key: Array) -> Params:
        if len(groups) == 1:
            return init_one(key)
        return jax.vmap(init_one)(jax.random.split(key, len(groups)))

    def unroll(
        params: Params, carry: Carry, obs: Array, prev_actions: Array, reset: Array
    ) -> tuple[Carry, Array, Array]:
        return unroll_team(params, carry, inputs(obs, prev_actions), reset)

    return Agent(init, lambda batch_size: zeros(batch_size, spec.n_agents), unroll, stacked)


def make_torso(cfg: Config, spec: EnvSpec, names: tuple[str, ...]) -> torso.Torso:
    """The layers from features to an embedding; `names` are the Dense layers'.

    Raises: ConfigError for convolutions over what is no image.
    """
    is_image = len(spec.obs_shape) == 3
    if cfg.torso == "cnn" and not is_image:
        raise config.ConfigError(
            "agent: agent.options.torso=cnn needs observations (height, width, channels); those of "
            f"{spec.name} are {spec.obs_shape}; use auto or flat"
        )
    image = None
    if is_image and cfg.torso != "flat":
        image = torso.Image(spec.obs_shape, **cfg.cnn.model_dump())
    return torso.Torso(names, cfg.hidden, cfg.layer_norm, image)


def sharing_groups(cfg: Config, spec: EnvSpec) -> tuple[tuple[int, ...], ...]:
    """Positions of the agents that share parameters, group by group.

    Raises: ConfigError if `cfg.groups` is not a partition of the agents, or is not asked for.
    """
    if cfg.groups is not None:
        return _named_groups(cfg, spec)
    everyone = range(spec.n_agents)
    labels = {"all": [0] * spec.n_agents, "none": everyone, "groups": spec.agent_groups}
    own = labels[cfg.sharing]
    return tuple(tuple(i for i in everyone if own[i] == label) for label in dict.fromkeys(own))


def _named_groups(cfg: Config, spec: EnvSpec) -> tuple[tuple[int, ...], ...]:
    groups, names = cfg.groups or (), spec.agent_names
    where = f"agent: agent.options.groups={[list(group) for group in groups]}"
    if cfg.sharing != "groups":
        raise config.ConfigError(
            f"{where} with sharing={cfg.sharing}; set sharing=groups, or groups=null"
        )
    chosen = [name for group in groups for name in group]
    for name in dict.fromkeys((*chosen, *names)):
        if name not in names:
            hint = config.suggest(name, names)
            raise config.ConfigError(f"{where}: {spec.name} has no agent {name!r}; {hint}")
        if chosen.count(name) != 1:
            times = "in no group" if name not in chosen else "in more than one place"
            raise config.ConfigError(f"{where}: {name!r} is {times}; name every agent once")
    return tuple(tuple(names.index(name) for name in group) for group in groups)


def _by_group(unroll: Callable[..., Any], groups: tuple[tuple[int, ...], ...]) -> Callable:
    """The unroll of one group's agents, batched over groups: of parameters `[G, ...]` and all N.

    Groups are filled up to the widest with copies of their first agent, whose results are dropped.
    """
    widest = max(map(len, groups))
    slots = np.array([[*group, *[group[0]] * (widest - len(group))] for group in groups])
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
        carry, q, hidden = batched(params, carry, split(x, 2), reset)
        return jax.tree.map(lambda leaf: merge(leaf, 1), carry), merge(q, 2), merge(hidden, 2)

    return unroll_all


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    """`x` itself where `index` changes nothing."""
    if np.array_equal(index, np.arange(x.shape[axis])):
        return x
    return jnp.take(x, index, axis=axis, mode="clip")


def features(
    obs: Array, prev_actions: Array, n_actions: int, last_action: bool, agent_id: bool
) -> Array:
    """Observation with the one-hot last action (zeros where there is none) and agent id.

    Args:
      obs: f32[..., N, O];  prev_actions: i32[..., N], -1 = none.
      n_actions: A.  last_action, agent_id: which features to append.
    Returns:
      f32[..., N, O (+ A) (+ N)].
    """
    parts = [obs]
    if last_action:
        parts.append(jax.nn.one_hot(prev_actions, n_actions, dtype=obs.dtype))
    if agent_id:
        n_agents = obs.shape[-2]
        ids = jnp.eye(n_agents, dtype=obs.dtype)
        parts.append(jnp.broadcast_to(ids, (*obs.shape[:-1], n_agents)))
    return jnp.concatenate(parts, axis=-1)


def previous_actions(actions: Array, reset: Array, first: Array) -> Array:
    """Last actions, rebuilt from the stored ones.

    Args:
      actions: i32[T, B, N].
      reset: bool[T+1, B], True where an episode starts.
      first: i32[B, N], last actions before the first entry.
    Returns:
      i32[T+1, B, N], -1 wherever `reset`.
    """
    return jnp.where(reset[..., None], -1, jnp.concatenate([first[None], actions]))


class Unrolled(NamedTuple):
    """A network's outputs over sequences: utilities f32[T+1, B, N, A], hidden f32[T+1, B, N, H]."""

    q: Array
    hidden: Array


def unroll(agent: Agent, params: Params, trajectory: Trajectory) -> Unrolled:
    """One network over a batch of sequences, from the sequences' own start.

    Args:
      params: the agent's parameters.
      trajectory: `[T+1, B, ...]`.
    """
    return _over(agent, trajectory)(params)


def unroll_pair(
    agent: Agent, params: Params, target_params: Params, trajectory: Trajectory
) -> tuple[Unrolled, Unrolled]:
    """Online and target network over a batch of sequences, both from the sequences' own start.

    Args:
      params, target_params: the agent's parameters; no gradient flows into the latter's result.
      trajectory: `[T+1, B, ...]`.
    Returns:
      (online, target).
    """
    outputs = _over(agent, trajectory)
    if not agent.stacked:
        return outputs(params), jax.lax.stop_gradient(outputs(target_params))
    both = jax.tree.map(
        lambda p, t: jnp.stack([p, jax.lax.stop_gradient(t)]), params, target_params
    )
    q, hidden = jax.vmap(outputs)(both)
    return Unrolled(q[0], hidden[0]), jax.lax.stop_gradient(Unrolled(q[1], hidden[1]))


def _over(agent: Agent, trajectory: Trajectory) -> Callable[[Params], Unrolled]:
    start = trajectory.start
    if start is None:
        none = jnp.full(trajectory.actions.shape[1:], -1, jnp.int32)
        start = Start(carry=agent.initial_carry(len(none)), prev_actions=none)
    prev_actions = previous_actions(trajectory.actions, trajectory.reset, start.prev_actions)

    def outputs(params: Params) -> Unrolled:
        inputs = (trajectory.obs, prev_actions, trajectory.reset)
        return Unrolled(*agent.unroll(params, start.carry, *inputs)[1:])

    return outputs


def in_bfloat16(agent: Agent) -> Agent:
    """The same agent computing in bfloat16: parameters, and all it takes and gives, stay f32."""

    def unroll(
        params: Params, carry: Carry, obs: Array, prev_actions: Array, reset: Array
    ) -> tuple[Carry, Array, Array]:
        params, carry, obs = functional.cast((params, carry, obs), jnp.bfloat16)
        result = agent.unroll(params, carry, obs, prev_actions, reset)
        return functional.cast(result, jnp.float32)

    return agent._replace(unroll=unroll)
