"""The README of an exported policy."""

import textwrap
from collections.abc import Mapping
from typing import Any

_STABLEHLO = """\
## `policy.stablehlo`: with JAX

`pip install jax flatbuffers`; written with jax {jax} (newer ones read it for at least half a
year), for {platforms}.

```python
import numpy as np
from jax import export

with open("policy.stablehlo", "rb") as file:
    policy = export.deserialize(bytearray(file.read()))
b = 1  # environments at a time, any number
state = {{
{state}
}}
actions, {head}, state = policy.call(obs, avail_actions, state)
```

Wrap `policy.call` in `jax.jit` for speed. A new episode begins where `state["reset"]` is True; the
state that comes back has it False.{more}
"""

_HEADS = {
    "argmax": ("q", " `q` holds the utilities, {shape}."),
    "sample": ("logits", " `logits` is {shape}; actions are drawn from their softmax."),
    "tanh": ("head", " `head` is {shape}; actions are its tanh, scaled."),
    None: ("_", ""),
}
"""`Algorithm.head` -> what the second output is called, and what is said of it."""

_KINDS = {
    "discrete": {
        "available": "True where an agent may; at least one each",
        "action": "the index of an action in the environment's own list",
        "column": "actions",
        "own": "0 to {last}",
    },
    "box": {
        "available": "True for the dimensions that an agent has",
        "action": "numbers from {low:g} to {high:g}",
        "column": "dimensions",
        "own": "{size}",
    },
}
"""What is said of actions of a kind."""

_NUMPY = """\
## `weights.npz`, `runner.py`: with NumPy

Python 3.10, NumPy 1.24, or newer; nothing else.

```python
import runner

policy = runner.load("weights.npz")
state = policy.initial_state({seed})  # at the start of every episode
actions, state = policy.act(obs, avail_actions, state)  # without the axis b
own = policy.agent({first!r})  # one agent by itself, from its own observation
```

`initial_state(b)` and `restart(state, ended)` are for several environments at a time; `runner.py`
says more.
"""

_TEXT = """\
# {name}: {algo} on {env}

Decentralised: each agent acts on its own observations alone, {how}. Trained with
qmix_jax {version} {git}.

| | shape | type | |
|---|---|---|---|
| `obs` | b, {n}, {obs} | float32 | {padding} |
| `avail_actions` | b, {n}, {a} | bool | {available} |
| `actions` | b, {action_shape} | {action_type} | {action} |

| agent | observation | {column} |
|---|---|---|
{agents}

{score}. The whole
configuration is in `metadata.json`.
"""


def text(about: Mapping[str, Any]) -> str:
    """What each file is, what goes in and out, and where the policy comes from."""
    facts, run = about["interface"], about["run"]
    actions, samples = facts["actions"], "key" in facts["state"]
    words = _KINDS[actions["kind"]]
    rows = zip(facts["agent_names"], facts["obs_shapes"], actions["sizes"], strict=True)
    uneven = any(shape != facts["obs_shape"] for shape in facts["obs_shapes"])
    parts = [
        _TEXT.format(
            name=run["name"],
            algo=run["algo"],
            env=facts["env"],
            version=run["versions"]["qmix_jax"],
            git=_commit(run["git"]),
            how="drawing its actions at random" if samples else "without exploration",
            n=len(facts["agent_names"]),
            a=max(actions["sizes"]),
            available=words["available"],
            action_shape=_shape(facts["state"]["prev_actions"][0]),
            action_type=facts["state"]["prev_actions"][1],
            action=words["action"].format(**actions),
            column=words["column"],
            obs=_shape(facts["obs_shape"]),
            padding="zeros behind an agent's own" if uneven else "as the environment gives them",
            agents="\n".join(
                f"| `{name}` | {_shape(own)} | {words['own'].format(size=n, last=n - 1)} |"
                for name, own, n in rows
            ),
            score=_score(run),
        )
    ]
    if "stablehlo" in about["formats"]:
        head, more = _HEADS[facts["head"]]
        shape = f"f32[b, {len(facts['agent_names'])}, {max(actions['sizes'])}]"
        parts.append(
            _STABLEHLO.format(
                jax=about["exported_with"]["jax"],
                platforms=", ".join(about["platforms"]),
                state=textwrap.indent(_state(facts["state"]), "    "),
                head=head,
                more=more.format(shape=shape),
            )
        )
    if "numpy" in about["formats"]:
        seed = "seed=0" if samples else ""
        parts.append(_NUMPY.format(first=facts["agent_names"][0], seed=seed))
    return "\n".join(parts)


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "(no commit known)"
    return f"at commit {git['commit']}" + " with local changes" * git["dirty"]


def _shape(shape: list[int]) -> str:
    return ", ".join(map(str, shape))


def _score(run: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {value:.4g}" for name, value in run["scores"].items())
    return (
        f"Seed {run['seed']} (member {run['member']}), {run['parameters']} parameters; greedy "
        f"evaluation in training: {scores or 'none'}"
    )


def _state(state: Mapping[str, Any]) -> str:
    """The start of an episode, written as Python."""
    lines = []
    for name, (shape, dtype) in state.items():
        if name == "key":
            lines.append('"key": np.array([0, 0], "uint32"),  # [0, seed]')
            continue
        size = ", ".join(["b", *map(str, shape)]) + ("" if shape else ",")
        value = "ones" if name == "reset" else "zeros"
        lines.append(f'"{name}": np.{value}(({size}), "{dtype}"),')
    return "\n".join(lines)
