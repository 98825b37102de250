"""A trained team as its run directory holds it, without its environment."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from qmix_jax import components, config
from qmix_jax.runtime import parameters, provenance, record, report, scores, sinks
from qmix_jax.types import EnvSpec

Kind = Literal["best", "final"]
"""Parameters of each member's best evaluation, or those at the end."""
KINDS = ("best", "final")


class Trained(NamedTuple):
    """Attributes:
    directory: the run directory.
    config: its configuration; the options of what only training needs are not checked again.
    spec: the environment's facts.
    parameters: nested dicts of NumPy arrays of all members, [P, ...].
    kind: which parameters these are.
    scores: metric -> f[P], each member's greedy evaluation of these parameters in training.
    manifest: how the run came about.
    """

    directory: pathlib.Path
    config: config.ExperimentConfig
    spec: EnvSpec
    parameters: Any
    kind: Kind
    scores: dict[str, np.ndarray]
    manifest: Mapping[str, Any]

    def member(self, which: int | str) -> int:
        """The member's number, 0 to P - 1; `best` is the one with the best score, of several the
        first.

        Raises: ConfigError if there is no such member.
        """
        count = self.config.seeds
        if which == "best":
            ranked = scores.order(self.spec.best_metrics, self.scores)
            columns = [sign * self.scores[name] for name, sign in ranked if name in self.scores]
            known = np.nan_to_num(np.array(columns).reshape(-1, count), nan=-math.inf)
            return max(range(count), key=lambda member: (*known[:, member], -member))
        if not isinstance(which, int) or not 0 <= which < count:
            raise config.ConfigError(
                f"policy: member={which!r}, but the run has {count}; "
                f"allowed: best, 0 to {count - 1}"
            )
        return which

    def own(self, member: int) -> Any:
        """Parameters of one member."""
        return jax.tree.map(lambda x: x[member], self.parameters)


def read(directory: str | os.PathLike[str], kind: Kind = "best") -> Trained:
    """Reads a run directory.

    Raises:
      ConfigError: not the directory of a run that has ended, or no such kind of parameters.
    """
    if kind not in ("best", "final"):
        raise config.ConfigError(f"policy: parameters={kind!r}; {config.suggest(kind, KINDS)}")
    root = pathlib.Path(directory)
    cfg = provenance.read_run_config(root, find)
    if record.reached(root) is None:
        raise config.ConfigError(
            f"policy: {str(root)!r} lacks what a run writes at its end; give the directory of a "
            "run that has ended"
        )
    manifest = provenance.read_manifest(root)
    spec = _spec(manifest["spec"])
    return Trained(
        directory=root,
        config=cfg,
        spec=spec,
        parameters=parameters.load_parameters(root / f"parameters_{kind}.npz"),
        kind=kind,
        scores=_scores(sinks.read_metrics(root / "metrics.csv"), kind, spec),
        manifest=manifest,
    )


def find(kind: str, name: str) -> Any:
    """What a run was trained with, as far as acting needs it: the agent's module. The options of
    the others were checked when it was trained, and their packages may not be here.
    """
    return components.find(kind, name) if kind == "agents" else _Unchecked


class _Options(config.Model, extra="allow"):
    """Anything."""


class _Unchecked:
    Config = _Options
    Coefficients = _Options


def _spec(facts: Mapping[str, Any]) -> EnvSpec:
    """From the manifest."""
    columns = facts["agent_state"]
    return EnvSpec(
        **{name: _tuples(value) for name, value in facts.items() if name != "agent_state"},
        agent_state=None if columns is None else np.array(columns, np.int32),
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _scores(metrics: Mapping[str, np.ndarray], kind: Kind, spec: EnvSpec) -> dict[str, np.ndarray]:
    """The evaluation whose parameters were kept, of each member."""
    names = [name for name in metrics if name.startswith("eval/")]
    tables = {name: report.series(metrics, name)[1] for name in names}
    tables = {name: table for name, table in tables.items() if table.size}
    if not tables:
        return {}
    found = {name.removeprefix("eval/"): table for name, table in tables.items()}
    ranked = [sign * found[name] for name, sign in scores.order(spec.best_metrics, found)]
    members, evaluations = ranked[0].shape
    chosen = [
        max(range(evaluations), key=lambda k: (*(table[i, k] for table in ranked), -k))
        if kind == "best"
        else evaluations - 1
        for i in range(members)
    ]
    return {name: table[range(members), chosen] for name, table in found.items()}
