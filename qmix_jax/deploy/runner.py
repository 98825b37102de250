"""Runs a trained policy with NumPy alone: needs only this file and `weights.npz`.

    import runner

    policy = runner.load("weights.npz")
    state = policy.initial_state()  # at the start of every episode
    actions, state = policy.act(obs, avail_actions, state)

`policy.agent("ally_0")` is the policy of one agent: it takes only that agent's observation and
chooses the same action as the full policy. Requires Python 3.10 and NumPy 1.24, or newer.
"""

import html
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FORMAT = 2
"""Version of the exported files: their contents and names."""

Arrays = Mapping[str, Any]
Step = Callable[[np.ndarray, np.ndarray, Arrays], tuple[Any, Any, Arrays]]
"""`(obs f32[B, N, *O], avail_actions bool[B, N, A], arrays) -> (actions i32[B, N] or f32[B, N, D],
head f32[B, N, A] or None, arrays)`: all agents of B environments, without exploration."""


class FormatError(ValueError):
    """A file has another format version."""


class Actions(NamedTuple):
    """The action space.

    Attributes:
      kind: `discrete`: one index per agent, i32[N]; `box`: a vector per agent, f32[N, D].
      sizes: number of actions, or of dimensions, per agent.
      low, high: bounds of every dimension; None for discrete actions.
    """

    kind: str
    sizes: tuple[int, ...]
    low: float | None = None
    high: float | None = None


class PolicyState(NamedTuple):
    """State of a policy between steps: pass it back unchanged.

    Attributes:
      arrays: name -> array with a leading axis of environments; `key` u32[2], of policies that
        sample, is shared by all.
      batch_size: number of environments; None for one environment without that axis.
    """

    arrays: Arrays
    batch_size: int | None

    def __repr__(self) -> str:
        arrays = {n: f"{np.asarray(a).dtype}{list(np.shape(a))}" for n, a in self.arrays.items()}
        fields = ", ".join(f"{name}: {array}" for name, array in arrays.items())
        return f"PolicyState(batch_size={self.batch_size}, {fields})"


class Policy(NamedTuple):
    """A decentralised policy of N agents, or of one agent (`agent(...)`), without the axis N.

    Attributes:
      agent_names: in the order of the agent axis.
      actions: the action space; discrete actions are numbered from 0.
      obs_shapes: one per agent.
      obs_shape: the shape to which all observations are padded, with zeros at the end.
      initial_state: `(batch_size=None, seed=None) -> PolicyState`, for the start of an episode. A
        batch size adds a leading axis B everywhere. `seed` is for policies that sample: equal seeds
        give equal actions; without a seed, every state differs.
      act: `(obs, avail_actions, state, epsilon=0.0, rng=None) -> (actions, PolicyState)`; actions
        are i32[N] or f32[N, D]. `obs` f32[N, *obs_shape] and `avail_actions` bool[N, A] may also be
        mappings agent name -> its array, unpadded; None makes all actions available. With
        probability `epsilon` an agent takes a random discrete action, drawn from `rng`, a
        `numpy.random.Generator`. The state stores the last actions, so execute those returned.
        Raises ValueError for wrong shapes, or if an agent has no available action.
      restart: `(state, ended bool[B]) -> PolicyState`, starts a new episode where `ended`.
      agent: `(name or index) -> Policy` of one agent, whose `obs` may be padded or not.
      about: metadata of the policy: interface, run, configuration, versions.
    """

    agent_names: tuple[str, ...]
    actions: Actions
    obs_shapes: tuple[tuple[int, ...], ...]
    obs_shape: tuple[int, ...]
    initial_state: Callable[..., PolicyState]
    act: Callable[..., tuple[np.ndarray, PolicyState]]
    restart: Callable[[PolicyState, Any], PolicyState]
    agent: Callable[[str | int], "Policy"]
    about: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """Returns the fields of `repr`: agents, interface, and the run that trained the policy."""
        run = self.about.get("run", {})
        names = ("name", "algo", "member", "parameters", "scores")
        return {
            "env": self.about["interface"].get("env", ""),
            "agents": list(self.agent_names),
            "actions": f"{self.actions.kind} {list(self.actions.sizes)}",
            "obs_shape": list(self.obs_shape),
            **{name: run[name] for name in names if name in run},
        }

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{k}={v}' for k, v in self.summary().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><b>{html.escape(name)}</b></td><td>{html.escape(str(value))}</td></tr>"
            for name, value in self.summary().items()
        )
        return f"<table><caption><b>Policy</b></caption><tbody>{rows}</tbody></table>"


def load(path: str | os.PathLike[str]) -> Policy:
    """Loads the policy from `weights.npz`, or from the folder that contains it."""
    return make_policy(*read(path))


def read(path: str | os.PathLike[str]) -> tuple[Mapping[str, Any], Step]:
    """Reads the metadata and the step of the policy in `weights.npz`; see `make_policy`."""
    file = pathlib.Path(path)
    file = file / "weights.npz" if file.is_dir() else file
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    about = json.loads(arrays.pop("metadata").tobytes())
    check_format(about, file)
    return about, network_step(about["network"], arrays)


def check_format(about: Mapping[str, Any], file: str | os.PathLike[str]) -> None:
    """Raises: FormatError if the metadata states another format."""
    version = about.get("format", 1)
    if version != FORMAT:
        raise FormatError(
            f"policy: {str(file)!r} has export format {version}, and this version reads format "
            f"{FORMAT}; export the run again with `qmix-jax export`"
        )


def make_policy(about: Mapping[str, Any], step: Step, index: int | None = None) -> Policy:
    """Makes a policy from a step.

    Args:
      about: its `interface` has `agent_names`, `actions` (see `Actions`), `obs_shapes`, `obs_shape`
        and `state`: name -> [shape, dtype] of each array, without the batch axis.
      step: see `Step`. The results of an agent must not depend on the other agents' inputs.
      index: makes the policy of this agent; None: of all agents.
    """
    interface = about["interface"]
    names, sizes = tuple(interface["agent_names"]), tuple(interface["actions"]["sizes"])
    obs_shape, obs_shapes = tuple(interface["obs_shape"]), [*map(tuple, interface["obs_shapes"])]
    obs_input = _Input("obs", names, obs_shapes, obs_shape, np.float32(0))
    rows = slice(None) if index is None else slice(index, index + 1)

    def initial_state(batch_size: int | None = None, seed: int | None = None) -> PolicyState:
        return _initial_state(interface["state"], batch_size, seed)

    def act(
        obs: Any,
        avail_actions: Any,
        state: PolicyState,
        epsilon: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, PolicyState]:
        batch_size = state.batch_size
        obs = _team_array(obs_input, obs, index, batch_size)
        available = _available(names, sizes, avail_actions, index, batch_size)
        actions, _, arrays = step(obs, available, state.arrays)
        actions = np.asarray(actions)
        if epsilon:
            actions = _explore(actions, available, epsilon, rng)
            arrays = {**arrays, "prev_actions": actions}
        result = actions if index is None else actions[:, index]
        return result[0] if batch_size is None else result, PolicyState(arrays, batch_size)

    def restart(state: PolicyState, ended: Any) -> PolicyState:
        reset = np.asarray(state.arrays["reset"]) | np.asarray(ended, bool)
        return PolicyState({**state.arrays, "reset": reset}, state.batch_size)

    def agent(name: str | int) -> Policy:
        known = name in names if isinstance(name, str) else 0 <= name < len(names)
        if not known:
            raise ValueError(f"policy: unknown agent {name!r}; allowed: {', '.join(names)}")
        return make_policy(about, step, names.index(name) if isinstance(name, str) else name)

    return Policy(
        agent_names=names[rows],
        actions=Actions(**{**interface["actions"], "sizes": sizes[rows]}),
        obs_shapes=tuple(obs_shapes[rows]),
        obs_shape=obs_shape,
        initial_state=initial_state,
        act=act,
        restart=restart,
        agent=agent,
        about=about,
    )


def _initial_state(
    state: Mapping[str, Any], batch_size: int | None, seed: int | None
) -> PolicyState:
    size = 1 if batch_size is None else batch_size
    arrays = {name: np.zeros((size, *shape), dtype) for name, (shape, dtype) in state.items()}
    arrays["reset"] = np.ones(size, bool)
    arrays["prev_actions"] += _no_action(arrays["prev_actions"])
    if "key" in arrays:
        arrays["key"] = _key(seed)
    return PolicyState(arrays, batch_size)


def _available(
    names: Sequence[str],
    sizes: Sequence[int],
    avail_actions: Any,
    index: int | None,
    batch_size: int | None,
) -> np.ndarray:
    """bool[B, N, A]. Raises: ValueError if an agent has no available action."""
    available = (np.arange(max(sizes)) < np.array(sizes)[:, None])[None]
    if avail_actions is not None:
        shapes = [(size,) for size in sizes]
        spec = _Input("avail_actions", names, shapes, (max(sizes),), np.True_)
        available = available & _team_array(spec, avail_actions, index, batch_size)
    stuck = ~available.any(axis=-1).all(axis=0)
    if stuck.any():
        raise ValueError(
            f"policy: agent {names[int(np.argmax(stuck))]!r} has no available action; every agent, "
            "dead ones included, needs one"
        )
    return available


class _Input(NamedTuple):
    """An argument of `act`: shape of each agent's array, padded shape, and value of the padding."""

    name: str
    agents: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    padded: tuple[int, ...]
    padding: np.generic


def _team_array(spec: _Input, values: Any, index: int | None, batch_size: int | None) -> np.ndarray:
    """[B, N, *padded] from an array, a mapping, or the array of the agent with this index; other
    agents get the padding value.
    """
    agents, dtype = spec.agents, spec.padding.dtype
    if index is None and not isinstance(values, Mapping):
        shape = (len(agents), *spec.padded)
        return _with_batch(np.asarray(values, dtype), batch_size, (shape,), spec.name)
    result = np.full((batch_size or 1, len(agents), *spec.padded), spec.padding)
    for i in range(len(agents)) if index is None else (index,):
        where = f"{spec.name} of {agents[i]}"
        if index is None and agents[i] not in values:
            got = ", ".join(values)
            raise ValueError(f"policy: {spec.name} has no entry {agents[i]!r}; got: {got}")
        array = np.asarray(values[agents[i]] if index is None else values, dtype)
        array = _with_batch(array, batch_size, (spec.shapes[i], spec.padded), where)
        result[(slice(None), i, *map(slice, array.shape[1:]))] = array
    return result


def _with_batch(
    array: np.ndarray, batch_size: int | None, shapes: Sequence[tuple[int, ...]], name: str
) -> np.ndarray:
    """The array with a leading axis B, if the other axes have one of the shapes."""
    leading = () if batch_size is None else (batch_size,)
    if array.shape in [leading + shape for shape in shapes]:
        return array if leading else array[None]
    expected = " or ".join(dict.fromkeys(str(leading + shape) for shape in shapes))
    raise ValueError(f"policy: {name} has shape {array.shape}; expected {expected}")


def _explore(
    actions: np.ndarray, available: np.ndarray, epsilon: float, rng: np.random.Generator | None
) -> np.ndarray:
    if actions.dtype.kind == "f":
        raise ValueError("policy: epsilon is for discrete actions; leave it out")
    if rng is None:
        raise ValueError(f"policy: epsilon={epsilon} needs rng=numpy.random.default_rng(seed)")
    drawn = np.argmax(np.where(available, rng.random(available.shape), -1.0), axis=-1)
    return np.where(rng.random(actions.shape) < epsilon, drawn, actions).astype(np.int32)


def _no_action(actions: np.ndarray) -> int:
    """The previous action at the start of an episode."""
    return -1 if actions.dtype.kind == "i" else 0


def _key(seed: int | None) -> np.ndarray:
    """u32[2], the data of `jax.random.key(seed)`; random if the seed is None."""
    if seed is None:
        return np.random.default_rng().integers(2**32, size=2, dtype=np.uint32)
    if not 0 <= seed < 2**32:
        raise ValueError(f"policy: seed={seed}; allowed: 0 to 2**32 - 1")
    return np.array([0, seed], np.uint32)


def network_step(network: Mapping[str, Any], arrays: Arrays) -> Step:
    """Returns the step of a network, with the same operations as in training.

    Args:
      network: `core` (gru, lstm or None), `head` (`argmax` or `sample` over available entries, or
        `tanh` scaled to the box), `width` of the head, `low` and `high` of a box, `groups` (agents
        that share parameters), `last_action`, `agent_id`, `n_states` (None, or the number of states
        that observations index), `dense` (names of the layers before the core) and `image` (None,
        or its `shape` and number of `convolutions`).
      arrays: parameters by path, with a leading axis of groups if there is more than one.
    """
    groups = [np.array(group) for group in network["groups"]]
    group_params = [
        {name: array if len(groups) == 1 else array[g] for name, array in arrays.items()}
        for g in range(len(groups))
    ]
    core = {"gru": _gru, "lstm": _lstm, None: _feed_forward}[network["core"]]
    choose = {"argmax": _argmax, "sample": _sample, "tanh": _tanh}[network["head"]]

    def step(obs: np.ndarray, avail: np.ndarray, state: Arrays) -> tuple[Any, Any, Arrays]:
        reset, previous = state["reset"], state["prev_actions"]
        starts = reset.reshape(-1, *[1] * (previous.ndim - 1))
        x = _inputs(network, obs, np.where(starts, _no_action(previous), previous))
        carry = {
            name: np.where(reset[:, None, None], 0, array)
            for name, array in state.items()
            if name.startswith("carry")
        }
        head = np.empty((*previous.shape[:2], network["width"]), np.float32)
        for group, params in zip(groups, group_params, strict=True):
            embedded = _embed(network, params, _matrix(x[:, group]))
            old = {name: _matrix(array[:, group]) for name, array in carry.items()}
            hidden, new = core(params, embedded, old)
            head[:, group] = _dense(params, "head", hidden).reshape(len(head), len(group), -1)
            for name, array in new.items():
                carry[name][:, group] = array.reshape(len(head), len(group), -1)
        actions, key = choose(network, head, avail, state)
        reset = np.zeros_like(reset)
        return actions, head, {**carry, "prev_actions": actions, "reset": reset, **key}

    return step


def _argmax(
    network: Mapping[str, Any], head: np.ndarray, avail: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    del network, state
    return np.argmax(np.where(avail, head, -np.inf), axis=-1).astype(np.int32), {}


def _sample(
    network: Mapping[str, Any], head: np.ndarray, avail: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    """Samples from the softmax over available entries (Gumbel-max); also returns the next key."""
    rng = np.random.default_rng(state["key"])
    key = rng.integers(2**32, size=2, dtype=np.uint32)
    return _argmax(network, head + rng.gumbel(size=head.shape), avail, state)[0], {"key": key}


def _tanh(
    network: Mapping[str, Any], head: np.ndarray, avail: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    del avail, state
    low, high = network["low"], network["high"]
    return (low + (np.tanh(head) + 1) * ((high - low) / 2)).astype(np.float32), {}


def _matrix(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _inputs(network: Mapping[str, Any], obs: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Observations with last actions (one-hot, or zeros for none) and agent ids."""
    n_envs, n_agents = previous.shape[:2]
    x = obs.reshape(n_envs, n_agents, -1)
    if network["n_states"] is not None:
        x = np.arange(network["n_states"]) == x[..., :1].astype(np.int32)
    parts = [x]
    if network["last_action"]:
        discrete = previous.ndim == 2
        parts.append(np.arange(network["width"]) == previous[..., None] if discrete else previous)
    if network["agent_id"]:
        parts.append(np.broadcast_to(np.eye(n_agents), (n_envs, n_agents, n_agents)))
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def _embed(network: Mapping[str, Any], params: Arrays, x: np.ndarray) -> np.ndarray:
    if network["image"] is not None:
        shape = tuple(network["image"]["shape"])
        size = int(np.prod(shape))
        image = x[:, :size].reshape(-1, *shape)
        for index in range(network["image"]["convolutions"]):
            name = f"torso/conv_{index}"
            image = _relu(params, name, _convolve(params, name, image))
        flat = image.reshape(len(image), -1)
        features = _relu(params, "torso/dense", _dense(params, "torso/dense", flat))
        x = np.concatenate([features, x[:, size:]], axis=-1)
    for name in network["dense"]:
        x = _relu(params, name, _dense(params, name, x))
    return x


def _dense(params: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def _convolve(params: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """Stride 1, zero padding to equal size: f32[R, height, width, channels]."""
    kernel = params[f"{name}/kernel"]
    size = kernel.shape[0]
    before = (size - 1) // 2
    margin = (before, size - 1 - before)
    padded = np.pad(x, ((0, 0), margin, margin, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    patches = np.moveaxis(windows, 3, 5).reshape(*x.shape[:3], -1)
    return patches @ _matrix(kernel) + params[f"{name}/bias"]


def _relu(params: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """relu, after the layer's LayerNorm if it has one."""
    if f"{name}_norm/scale" in params:
        mean = x.mean(axis=-1, keepdims=True)
        variance = np.maximum((x * x).mean(axis=-1, keepdims=True) - mean * mean, 0)
        factor = params[f"{name}_norm/scale"] / np.sqrt(variance + np.float32(1e-6))
        x = (x - mean) * factor + params[f"{name}_norm/bias"]
    return np.maximum(x, 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.maximum(x, -80)))  # exp(89) overflows float32


def _feed_forward(params: Arrays, x: np.ndarray, carry: Arrays) -> tuple[np.ndarray, Arrays]:
    del params
    return x, carry


def _gru(params: Arrays, x: np.ndarray, carry: Arrays) -> tuple[np.ndarray, Arrays]:
    hidden = carry["carry"]
    size = hidden.shape[-1]
    projected = x @ params["gru/input_kernel"] + params["gru/bias"]
    recurrent = hidden @ params["gru/recurrent_kernel"]
    gates = _sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size])
    r, z = gates[:, :size], gates[:, size:]
    recurrent_n = recurrent[:, 2 * size :] + params["gru/candidate_bias"]
    n = np.tanh(projected[:, 2 * size :] + r * recurrent_n)
    hidden = (1 - z) * n + z * hidden
    return hidden, {"carry": hidden}


def _lstm(params: Arrays, x: np.ndarray, carry: Arrays) -> tuple[np.ndarray, Arrays]:
    hidden, cell = carry["carry/hidden"], carry["carry/cell"]
    size = hidden.shape[-1]
    projected = x @ params["lstm/input_kernel"] + params["lstm/bias"]
    gates = projected + hidden @ params["lstm/recurrent_kernel"]
    i, f, o = np.split(_sigmoid(gates[:, : 3 * size]), 3, axis=-1)
    cell = f * cell + i * np.tanh(gates[:, 3 * size :])
    hidden = o * np.tanh(cell)
    return hidden, {"carry/hidden": hidden, "carry/cell": cell}
