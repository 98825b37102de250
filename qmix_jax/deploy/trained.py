"""A trained team as its run directory holds it, without its environment."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from qmix_jax import components, config, program
from qmix_jax.algorithms import base as algorithms
from qmix_jax.console import learning_curves
from qmix_jax.mixers import base as mixers
from qmix_jax.runs import metadata, parameters, record, scores, storage
from qmix_jax.types import Box, Discrete, EnvSpec

Kind = Literal["best", "final"]
"""Parameters of each member's best evaluation, or those at the end."""
KINDS = ("best", "final")


class TrainedRun(NamedTuple):
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
            ranked = scores.ranking(self.spec.best_metrics, self.scores)
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

    def algorithm(self) -> algorithms.Algorithm:
        """The algorithm, to act with. It learns nothing: its mixer is not there.

        Raises: ConfigError if its networks do not fit the environment's facts.
        """
        mixer = mixers.absent() if self.config.algo.mixer else None
        return program.make_algorithm(self.config, self.spec, mixer)


def read(directory: str | os.PathLike[str], kind: Kind = "best") -> TrainedRun:
    """Reads a run directory.

    Raises:
      ConfigError: not the directory of a run that has ended, or no such kind of parameters.
    """
    if kind not in ("best", "final"):
        raise config.ConfigError(f"policy: parameters={kind!r}; {config.suggest(kind, KINDS)}")
    root = pathlib.Path(directory)
    cfg = metadata.read_run_config(root, find)
    if record.read_summary(root) is None:
        raise config.ConfigError(
            f"policy: {str(root)!r} lacks what a run writes at its end; give the directory of a "
            "run that has ended"
        )
    manifest = metadata.read_manifest(root)
    spec = _spec(manifest["spec"])
    return TrainedRun(
        directory=root,
        config=cfg,
        spec=spec,
        parameters=parameters.load_parameters(root / f"parameters_{kind}.npz"),
        kind=kind,
        scores=_scores(storage.read_metrics(root / "metrics.csv"), kind, spec),
        manifest=manifest,
    )


def find(kind: str, name: str) -> Any:
    """The modules that acting needs: those of the algorithm and of its agent. The options of all
    others were checked when the run was trained, and their packages may not be installed here.
    """
    return components.find(kind, name) if kind in ("agents", "algorithms") else _Unchecked


class _AnyOptions(config.Model, extra="allow"):
    """Anything."""


class _Unchecked:
    Config = _AnyOptions


def _spec(facts: Mapping[str, Any]) -> EnvSpec:
    """The environment's facts, from the manifest."""
    values = {name: _tuples(value) for name, value in facts.items()}
    arrays = {"agent_state": np.int32, "neighbours": bool}
    for name in (name for name in arrays if facts[name] is not None):
        values[name] = np.array(facts[name], arrays[name])
    kind = Box if "low" in facts["actions"] else Discrete
    values["actions"] = kind(**{name: _tuples(value) for name, value in facts["actions"].items()})
    return EnvSpec(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _scores(metrics: Mapping[str, np.ndarray], kind: Kind, spec: EnvSpec) -> dict[str, np.ndarray]:
    """Of each member, the evaluation of these parameters."""
    names = [name for name in metrics if name.startswith("eval/")]
    tables = {
        name.removeprefix("eval/"): learning_curves.series(metrics, name)[1] for name in names
    }
    tables = {name: table for name, table in tables.items() if table.size}
    if not tables:
        return {}
    ranked = [sign * tables[name] for name, sign in scores.ranking(spec.best_metrics, tables)]
    members, evaluations = next(iter(tables.values())).shape
    chosen = [
        max(range(evaluations), key=lambda k: (*(table[i, k] for table in ranked), -k))
        if kind == "best"
        else evaluations - 1
        for i in range(members)
    ]
    return {name: table[range(members), chosen] for name, table in tables.items()}
