"""Acts as a trained team does, with NumPy alone: this file and `weights.npz` are all it takes.

    import runner

    policy = runner.load("weights.npz")
    state = policy.initial_state()  # at the start of every episode
    actions, state = policy.act(obs, avail_actions, state)

`policy.agent("ally_0")` is the policy of one agent: it sees that agent's observations alone, and
chooses what the team's policy chooses for it. Python 3.10 or newer, NumPy 1.24 or newer.
"""

import html
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

FORMAT = 2
"""Of exported files: what they hold, and under which names."""

Arrays = Mapping[str, Any]
Step = Callable[[np.ndarray, np.ndarray, Arrays], tuple[Any, Any, Arrays]]
"""`(obs f32[B, N, *O], avail_actions bool[B, N, A], arrays) -> (actions i32[B, N] or f32[B, N, D],
head f32[B, N, A] or None, arrays)`, all agents of B environments, without exploration."""


class FormatError(ValueError):
    """A file of another format."""


class Actions(NamedTuple):
    """Attributes:
    kind: `discrete`: an index of each agent, i32[N]; `box`: numbers of each agent, f32[N, D].
    sizes: of each agent, its number of actions or of dimensions.
    low, high: bounds of every dimension; None for discrete actions.
    """

    kind: str
    sizes: tuple[int, ...]
    low: float | None = None
    high: float | None = None


class PolicyState(NamedTuple):
    """What a policy remembers from one step to the next: hand it back as it is.

    Attributes:
      arrays: name -> array with a leading axis of environments; `key` u32[2], of a policy that
        samples, is one for all.
      batch_size: number of environments; None for one without that axis.
    """

    arrays: Arrays
    batch_size: int | None

    def __repr__(self) -> str:
        arrays = {n: f"{np.asarray(a).dtype}{list(np.shape(a))}" for n, a in self.arrays.items()}
        fields = ", ".join(f"{name}: {array}" for name, array in arrays.items())
        return f"PolicyState(batch_size={self.batch_size}, {fields})"


class Policy(NamedTuple):
    """Decentralised execution. N agents, or the one of `agent(...)`, which has no axis N then.

    Attributes:
      agent_names: in the order of the agent axis.
      actions: what the agents choose from; discrete actions are numbered from 0.
      obs_shapes: of each agent.
      obs_shape: the shape that all are padded to, with zeros at the end.
      initial_state: `(batch_size=None, seed=None) -> PolicyState`, the start of an episode. With a
        batch size, everything has a leading axis B. `seed` is for policies that sample: the same
        seed gives the same actions; without a seed, every state differs.
      act: `(obs, avail_actions, state, epsilon=0.0, rng=None) -> (actions, PolicyState)`, where
        actions are i32[N] or f32[N, D]. `obs` f32[N, *obs_shape] and `avail_actions` bool[N, A],
        or mappings agent name -> its array, unpadded; None allows every action an agent has. With
        probability `epsilon` each agent takes a random discrete action, drawn from `rng`, a
        `numpy.random.Generator`. The state remembers the last actions, so execute the returned
        ones. Raises ValueError for other shapes, or if an agent has no available action.
      restart: `(state, ended bool[B]) -> PolicyState`: a new episode begins where `ended`.
      agent: `(name or index) -> Policy` of one agent, whose `obs` is its own, padded or not.
      about: what was written down about this policy.
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
        """Fields of `repr`: the agents, their interface, and the run that trained the policy."""
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
    """The policy in `weights.npz`, or in the folder that holds it."""
    return make(*read(path))


def read(path: str | os.PathLike[str]) -> tuple[Mapping[str, Any], Step]:
    """What is written down about the policy in `weights.npz`, and its step: see `make`."""
    file = pathlib.Path(path)
    file = file / "weights.npz" if file.is_dir() else file
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    about = json.loads(arrays.pop("metadata").tobytes())
    check_format(about, file)
    return about, network(about["network"], arrays)


def check_format(about: Mapping[str, Any], file: str | os.PathLike[str]) -> None:
    """Raises: FormatError for what was written down about a file of another format."""
    found = about.get("format", 1)
    if found != FORMAT:
        raise FormatError(
            f"policy: {str(file)!r} has export format {found}, and this version reads format "
            f"{FORMAT}; export the run again with `qmix-jax export`"
        )


def make(about: Mapping[str, Any], step: Step) -> Policy:
    """A policy around a step.

    Args:
      about: its `interface` holds `agent_names`, `actions` (see `Actions`), `obs_shapes`,
        `obs_shape` and `state`: name -> [shape, dtype] of an array of the state, without its batch
        axis (`key` has none).
      step: see `Step`. Agents' rows must not depend on each other.
    """
    facts = about["interface"]
    team = _Agents(
        names=tuple(facts["agent_names"]),
        actions=Actions(**{**facts["actions"], "sizes": tuple(facts["actions"]["sizes"])}),
        obs_shapes=tuple(map(tuple, facts["obs_shapes"])),
        obs_shape=tuple(facts["obs_shape"]),
        state={name: (tuple(shape), dtype) for name, (shape, dtype) in facts["state"].items()},
        step=step,
        about=about,
    )
    return _policy(team, tuple(range(len(team.names))))


class _Agents(NamedTuple):
    names: tuple[str, ...]
    actions: Actions
    obs_shapes: tuple[tuple[int, ...], ...]
    obs_shape: tuple[int, ...]
    state: Mapping[str, tuple[tuple[int, ...], str]]
    step: Step
    about: Mapping[str, Any]


def _policy(team: _Agents, rows: tuple[int, ...], alone: bool = False) -> Policy:
    """The policy of the agents in `rows`; `alone`: of one agent, without an agent axis."""
    sizes = team.actions.sizes
    exists = np.arange(max(sizes)) < np.array(sizes)[:, None]

    def initial_state(batch_size: int | None = None, seed: int | None = None) -> PolicyState:
        return _initial_state(team, batch_size, seed)

    def act(
        obs: Any,
        avail_actions: Any,
        state: PolicyState,
        epsilon: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, PolicyState]:
        seen = _observations(team, rows, alone, obs, state.batch_size)
        allowed = exists[None] & _allowed(team, rows, alone, avail_actions, state.batch_size)
        _refuse_idle(team, rows, allowed)
        actions, _, arrays = team.step(seen, allowed, state.arrays)
        actions = np.asarray(actions)
        if epsilon:
            actions = _explore(actions, allowed, epsilon, rng)
            arrays = {**arrays, "prev_actions": actions}
        own = actions[:, rows[0]] if alone else actions
        return own[0] if state.batch_size is None else own, PolicyState(arrays, state.batch_size)

    def restart(state: PolicyState, ended: Any) -> PolicyState:
        reset = np.asarray(state.arrays["reset"]) | np.asarray(ended, bool)
        return PolicyState({**state.arrays, "reset": reset}, state.batch_size)

    def agent(which: str | int) -> Policy:
        known = which in team.names if isinstance(which, str) else 0 <= which < len(team.names)
        if not known:
            raise ValueError(f"policy: no agent {which!r}; allowed: {', '.join(team.names)}")
        return _policy(team, (team.names.index(which) if isinstance(which, str) else which,), True)

    return Policy(
        agent_names=tuple(team.names[i] for i in rows),
        actions=team.actions._replace(sizes=tuple(sizes[i] for i in rows)),
        obs_shapes=tuple(team.obs_shapes[i] for i in rows),
        obs_shape=team.obs_shape,
        initial_state=initial_state,
        act=act,
        restart=restart,
        agent=agent,
        about=team.about,
    )


def _observations(
    team: _Agents, rows: tuple[int, ...], alone: bool, obs: Any, batch_size: int | None
) -> np.ndarray:
    """f32[B, N, *O]; zeros for agents that are not in `rows`."""
    if not alone and not isinstance(obs, Mapping):
        shape = (len(rows), *team.obs_shape)
        return _with_batch(np.asarray(obs, np.float32), batch_size, (shape,), "obs")
    seen = np.zeros((batch_size or 1, len(team.names), *team.obs_shape), np.float32)
    for i in rows:
        own = np.asarray(obs if alone else _of(obs, team.names[i], "obs"), np.float32)
        shapes = (team.obs_shapes[i], team.obs_shape)
        own = _with_batch(own, batch_size, shapes, f"obs of {team.names[i]}")
        seen[(slice(None), i, *map(slice, own.shape[1:]))] = own
    return seen


def _allowed(
    team: _Agents, rows: tuple[int, ...], alone: bool, avail: Any, batch_size: int | None
) -> np.ndarray:
    """bool[B, N, A]; everything for agents that are not in `rows`."""
    sizes = team.actions.sizes
    widest = max(sizes)
    if avail is None:
        return np.ones((1, 1, 1), bool)
    if not alone and not isinstance(avail, Mapping):
        shape = (len(rows), widest)
        return _with_batch(np.asarray(avail, bool), batch_size, (shape,), "avail_actions")
    allowed = np.ones((batch_size or 1, len(team.names), widest), bool)
    for i in rows:
        own = np.asarray(avail if alone else _of(avail, team.names[i], "avail_actions"), bool)
        shapes = ((sizes[i],), (widest,))
        own = _with_batch(own, batch_size, shapes, f"avail_actions of {team.names[i]}")
        allowed[:, i, : own.shape[-1]] = own
    return allowed


def _of(values: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in values:
        raise ValueError(f"policy: {what} has no entry {name!r}; got: {', '.join(values)}")
    return values[name]


def _with_batch(
    values: np.ndarray, batch_size: int | None, shapes: tuple[tuple[int, ...], ...], what: str
) -> np.ndarray:
    """The values with a leading axis B, if they have one of the shapes behind it."""
    leading = () if batch_size is None else (batch_size,)
    if values.shape in [leading + shape for shape in shapes]:
        return values if leading else values[None]
    expected = " or ".join(dict.fromkeys(str(leading + shape) for shape in shapes))
    raise ValueError(f"policy: {what} has shape {values.shape}; expected {expected}")


def _refuse_idle(team: _Agents, rows: tuple[int, ...], allowed: np.ndarray) -> None:
    if not allowed.any(axis=-1).all():
        idle = next(team.names[i] for i in rows if not allowed[:, i].any(axis=-1).all())
        raise ValueError(
            f"policy: avail_actions allow {idle} nothing; give everyone one action, also the dead"
        )


def _explore(
    actions: np.ndarray, allowed: np.ndarray, epsilon: float, rng: np.random.Generator | None
) -> np.ndarray:
    if actions.dtype.kind == "f":
        raise ValueError("policy: epsilon is for discrete actions; leave it out")
    if rng is None:
        raise ValueError(f"policy: epsilon={epsilon} needs rng=numpy.random.default_rng(seed)")
    drawn = np.argmax(np.where(allowed, rng.random(allowed.shape), -1.0), axis=-1)
    return np.where(rng.random(actions.shape) < epsilon, drawn, actions).astype(np.int32)


def _initial_state(team: _Agents, batch_size: int | None, seed: int | None) -> PolicyState:
    leading = (1 if batch_size is None else batch_size,)
    arrays = {n: np.zeros(leading + shape, dtype) for n, (shape, dtype) in team.state.items()}
    arrays["reset"] = np.ones(leading, bool)
    arrays["prev_actions"] += _no_action(arrays["prev_actions"])
    if "key" in arrays:
        arrays["key"] = _key(seed)
    return PolicyState(arrays, batch_size)


def _no_action(actions: np.ndarray) -> int:
    """What stands before the first action of an episode."""
    return -1 if actions.dtype.kind == "i" else 0


def _key(seed: int | None) -> np.ndarray:
    """u32[2], the data of `jax.random.key(seed)`."""
    if seed is None:
        return np.random.default_rng().integers(2**32, size=2, dtype=np.uint32)
    if not 0 <= seed < 2**32:
        raise ValueError(f"policy: seed={seed}; allowed: 0 to 2**32 - 1")
    return np.array([0, seed], np.uint32)


def network(facts: Mapping[str, Any], arrays: Arrays) -> Step:
    """The step of a network, operation by operation as it was trained.

    Args:
      facts: `core` (gru, lstm or None), `head` (`argmax` or `sample` of its available entries,
        or `tanh` into the box), `width` of the head, `low` and `high` of a box, `groups` (agents
        that share parameters), `last_action`, `agent_id`, `n_states` (None, or what an observation
        is the index of), `dense` (names of the layers before the core) and `image` (None, or the
        `shape` and the number of `convolutions`).
      arrays: parameters by path, with a leading axis of groups where there is more than one.
    """
    groups = [np.array(group) for group in facts["groups"]]
    parameters = [
        {name: array if len(groups) == 1 else array[g] for name, array in arrays.items()}
        for g in range(len(groups))
    ]
    core = {"gru": _gru, "lstm": _lstm, None: _feed_forward}[facts["core"]]
    choose = {"argmax": _best, "sample": _sampled, "tanh": _squashed}[facts["head"]]

    def step(obs: np.ndarray, avail: np.ndarray, state: Arrays) -> tuple[Any, Any, Arrays]:
        fresh, previous = state["reset"], state["prev_actions"]
        restarts = fresh.reshape(-1, *[1] * (previous.ndim - 1))
        previous = np.where(restarts, _no_action(previous), previous)
        x = _features(facts, obs, previous)
        carry = {name: array for name, array in state.items() if name.startswith("carry")}
        carry = {name: np.where(fresh[:, None, None], 0, a) for name, a in carry.items()}
        head = np.empty((*previous.shape[:2], facts["width"]), np.float32)
        for group, own in zip(groups, parameters, strict=True):
            embedded = _embed(facts, own, _rows(x[:, group]))
            hidden, after = core(own, embedded, {n: _rows(a[:, group]) for n, a in carry.items()})
            head[:, group] = _dense(own, "head", hidden).reshape(len(head), len(group), -1)
            for name, rows in after.items():
                carry[name][:, group] = rows.reshape(len(head), len(group), -1)
        actions, key = choose(facts, head, avail, state)
        return (
            actions,
            head,
            {**carry, "prev_actions": actions, "reset": np.zeros_like(fresh), **key},
        )

    return step


def _best(
    facts: Mapping[str, Any], head: np.ndarray, avail: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    del facts, state
    return np.argmax(np.where(avail, head, -np.inf), axis=-1).astype(np.int32), {}


def _sampled(
    facts: Mapping[str, Any], head: np.ndarray, avail: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    """From the softmax of available entries (Gumbel-max), and the next key."""
    rng = np.random.default_rng(state["key"])
    key = rng.integers(2**32, size=2, dtype=np.uint32)
    return _best(facts, head + rng.gumbel(size=head.shape), avail, state)[0], {"key": key}


def _squashed(
    facts: Mapping[str, Any], head: np.ndarray, avail: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    del avail, state
    low, high = facts["low"], facts["high"]
    return (low + (np.tanh(head) + 1) * ((high - low) / 2)).astype(np.float32), {}


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _features(facts: Mapping[str, Any], obs: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Observations with last actions (one-hot, zeros where there is none) and agent ids."""
    n_envs, n_agents = previous.shape[:2]
    seen = obs.reshape(n_envs, n_agents, -1)
    if facts["n_states"] is not None:
        seen = np.arange(facts["n_states"]) == seen[..., :1].astype(np.int32)
    parts = [seen]
    if facts["last_action"]:
        discrete = previous.ndim == 2
        parts.append(np.arange(facts["width"]) == previous[..., None] if discrete else previous)
    if facts["agent_id"]:
        parts.append(np.broadcast_to(np.eye(n_agents), (n_envs, n_agents, n_agents)))
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def _embed(facts: Mapping[str, Any], own: Arrays, x: np.ndarray) -> np.ndarray:
    if facts["image"] is not None:
        shape = tuple(facts["image"]["shape"])
        size = int(np.prod(shape))
        image = x[:, :size].reshape(-1, *shape)
        for index in range(facts["image"]["convolutions"]):
            name = f"torso/conv_{index}"
            image = _relu(own, name, _convolve(own, name, image))
        flat = image.reshape(len(image), -1)
        seen = _relu(own, "torso/dense", _dense(own, "torso/dense", flat))
        x = np.concatenate([seen, x[:, size:]], axis=-1)
    for name in facts["dense"]:
        x = _relu(own, name, _dense(own, name, x))
    return x


def _affine(own: Arrays, x: np.ndarray, kernel: np.ndarray, bias: str) -> np.ndarray:
    return x @ kernel + own[bias]


def _dense(own: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return _affine(own, x, own[f"{name}/kernel"], f"{name}/bias")


def _convolve(own: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """Stride 1, padded with zeros to equal size: f32[R, height, width, channels]."""
    kernel = own[f"{name}/kernel"]
    size = kernel.shape[0]
    before = (size - 1) // 2
    margin = (before, size - 1 - before)
    padded = np.pad(x, ((0, 0), margin, margin, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    patches = np.moveaxis(windows, 3, 5).reshape(*x.shape[:3], -1)
    return _affine(own, patches, _rows(kernel), f"{name}/bias")


def _relu(own: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """relu, after the layer's LayerNorm where it has one."""
    if f"{name}_norm/scale" in own:
        mean = x.mean(axis=-1, keepdims=True)
        variance = np.maximum((x * x).mean(axis=-1, keepdims=True) - mean * mean, 0)
        factor = own[f"{name}_norm/scale"] / np.sqrt(variance + np.float32(1e-6))
        x = (x - mean) * factor + own[f"{name}_norm/bias"]
    return np.maximum(x, 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.maximum(x, -80)))  # exp(89) is no float32


def _feed_forward(own: Arrays, x: np.ndarray, carry: Arrays) -> tuple[np.ndarray, Arrays]:
    del own
    return x, carry


def _gru(own: Arrays, x: np.ndarray, carry: Arrays) -> tuple[np.ndarray, Arrays]:
    hidden = carry["carry"]
    size = hidden.shape[-1]
    projected = _affine(own, x, own["gru/input_kernel"], "gru/bias")
    recurrent = hidden @ own["gru/recurrent_kernel"]
    gates = _sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size])
    r, z = gates[:, :size], gates[:, size:]
    recurrent_n = recurrent[:, 2 * size :] + own["gru/candidate_bias"]
    n = np.tanh(projected[:, 2 * size :] + r * recurrent_n)
    hidden = (1 - z) * n + z * hidden
    return hidden, {"carry": hidden}


def _lstm(own: Arrays, x: np.ndarray, carry: Arrays) -> tuple[np.ndarray, Arrays]:
    hidden, cell = carry["carry/hidden"], carry["carry/cell"]
    size = hidden.shape[-1]
    projected = _affine(own, x, own["lstm/input_kernel"], "lstm/bias")
    gates = projected + hidden @ own["lstm/recurrent_kernel"]
    i, f, o = np.split(_sigmoid(gates[:, : 3 * size]), 3, axis=-1)
    cell = f * cell + i * np.tanh(gates[:, 3 * size :])
    hidden = o * np.tanh(cell)
    return hidden, {"carry/hidden": hidden, "carry/cell": cell}
