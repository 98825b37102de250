"""The README of an exported policy."""

import textwrap
from collections.abc import Mapping
from typing import Any

_TEXT = """\
# {algo} on {env}

A trained policy for {n} agents: each agent acts on its own observations only, {acts}. Exported
from the run `{run}` of qmix_jax {version}{commit}.

| file | |
|---|---|
{files}
| `metadata.json` | names, shapes, dtypes; configuration, commit, seed and scores of the run |

## Inputs and outputs

For `b` environments at a time:

| | shape | dtype | |
|---|---|---|---|
| `obs` | b, {n}, {obs} | float32 | {padding} |
| `avail_actions` | b, {n}, {width} | bool | {available} |
| `actions` | b, {action_shape} | {action_dtype} | {action} |

| agent | observation | {column} |
|---|---|---|
{agents}
"""

_STABLEHLO = """\
## Run with JAX

Install `jax` and `flatbuffers`. The file was written by jax {jax} for {platforms}; later versions
of JAX read it for at least six months.

```python
import numpy as np
from jax import export

with open("policy.stablehlo", "rb") as file:
    policy = export.deserialize(bytearray(file.read()))
b = 1  # number of environments
state = {{
{state}
}}
actions, {head}, state = policy.call(obs, avail_actions, state)
```

For speed, wrap `policy.call` in `jax.jit`. Set `state["reset"]` to True where a new episode begins;
the returned state has it False.{head_text}
"""

_NUMPY = """\
## Run with NumPy

Needs Python 3.10 and NumPy 1.24, or newer.

```python
import runner

policy = runner.load("weights.npz")
state = policy.initial_state({seed})  # at the start of every episode
actions, state = policy.act(obs, avail_actions, state)  # one environment, without the axis b
agent = policy.agent("{agent}")  # the policy of one agent, which takes only its observation
```

For several environments, use `initial_state(b)` and `restart(state, ended)`; see `runner.py`.
"""

_RUN = """\
## Training

Seed {seed} (member {member}), {parameters} parameters; greedy evaluation in training: {scores}.
"""

_FILES = {
    "stablehlo": "| `policy.stablehlo` | the policy as a program with its weights, for JAX |",
    "numpy": "| `weights.npz`, `runner.py` | the weights, and an implementation in NumPy |",
}
_HEADS = {
    "argmax": ("q", " `q` {shape} holds the utilities."),
    "sample": ("logits", " Actions are sampled from the softmax of `logits` {shape}."),
    "tanh": ("head", " Actions are the tanh of `head` {shape}, scaled to their bounds."),
    None: ("_", ""),
}
"""`Algorithm.head` -> name and description of the second output."""


def text(about: Mapping[str, Any]) -> str:
    """Returns the README of an export from its metadata."""
    interface, run, formats = about["interface"], about["run"], about["formats"]
    samples = "key" in interface["state"]
    n_agents, width = len(interface["agent_names"]), max(interface["actions"]["sizes"])
    git, prev_shape = run["git"], interface["state"]["prev_actions"]
    commit = f" (commit {git['commit']}{', with local changes' * git['dirty']})" if git else ""
    padded = any(shape != interface["obs_shape"] for shape in interface["obs_shapes"])
    parts = [
        _TEXT.format(
            algo=run["algo"],
            env=interface["env"],
            acts="sampling its actions" if samples else "without exploration",
            run=run["name"],
            version=run["versions"]["qmix_jax"],
            commit=commit,
            files="\n".join(_FILES[name] for name in formats),
            n=n_agents,
            obs=_shape(interface["obs_shape"]),
            padding="each agent's, padded with zeros at the end" if padded else "",
            width=width,
            action_shape=_shape(prev_shape[0]),
            action_dtype=prev_shape[1],
            **_actions(interface),
        )
    ]
    if "stablehlo" in formats:
        head, head_text = _HEADS[interface["head"]]
        parts.append(
            _STABLEHLO.format(
                jax=about["exported_with"]["jax"],
                platforms=", ".join(about["platforms"]),
                state=textwrap.indent(_initial_state(interface["state"]), "    "),
                head=head,
                head_text=head_text.format(shape=f"f32[b, {n_agents}, {width}]"),
            )
        )
    if "numpy" in formats:
        seed = "seed=0" if samples else ""
        parts.append(_NUMPY.format(agent=interface["agent_names"][0], seed=seed))
    scores = ", ".join(f"{name} {value:.4g}" for name, value in run["scores"].items())
    return "\n".join([*parts, _RUN.format_map({**run, "scores": scores or "none"})])


def _actions(interface: Mapping[str, Any]) -> dict[str, str]:
    """Texts about actions, and the table of agents."""
    actions = interface["actions"]
    discrete = actions["kind"] == "discrete"
    rows = zip(interface["agent_names"], interface["obs_shapes"], actions["sizes"], strict=True)
    return {
        "available": "True = allowed; at least one per agent"
        if discrete
        else "True for the dimensions that an agent has",
        "action": "index of an action of the environment"
        if discrete
        else "numbers from {low:g} to {high:g}".format(**actions),
        "column": "actions" if discrete else "dimensions",
        "agents": "\n".join(
            f"| `{name}` | {_shape(shape)} | {f'0 to {size - 1}' if discrete else size} |"
            for name, shape, size in rows
        ),
    }


def _shape(shape: list[int]) -> str:
    return ", ".join(map(str, shape))


def _initial_state(state: Mapping[str, Any]) -> str:
    """The state at the start of an episode, as entries of a Python dict."""
    lines = []
    for name, (shape, dtype) in state.items():
        if name == "key":
            lines.append('"key": np.array([0, 0], "uint32"),  # [0, seed]')
            continue
        size = ", ".join(["b", *map(str, shape)]) + ("" if shape else ",")
        value = "ones" if name == "reset" else "zeros"
        lines.append(f'"{name}": np.{value}(({size}), "{dtype}"),')
    return "\n".join(lines)
