"""A trained run, read from its directory without its environment."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from qmix_jax import components, config, program
from qmix_jax.algorithms import base as algorithms
from qmix_jax.console import learning_curves
from qmix_jax.mixers import base as mixers
from qmix_jax.runs import metadata, parameters, record, scores, storage
from qmix_jax.types import Box, Discrete, EnvSpec

Kind = Literal["best", "final"]
"""Parameters of each member's best evaluation, or of the end of training."""


class TrainedRun(NamedTuple):
    """A finished run.

    Attributes:
      directory: the run directory.
      config: its configuration; options that only training needs are not validated again.
      spec: of the environment.
      parameters: nested dicts of NumPy arrays of all members, [P, ...].
      kind: which parameters these are.
      scores: metric -> f[P], each member's greedy evaluation of these parameters in training.
      manifest: versions, commit and outcome of the run.
    """

    directory: pathlib.Path
    config: config.ExperimentConfig
    spec: EnvSpec
    parameters: Any
    kind: Kind
    scores: dict[str, np.ndarray]
    manifest: Mapping[str, Any]

    def member(self, which: int | str) -> int:
        """Returns the index of a member, 0 to P - 1; `best` is the first with the best score.

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

    def member_params(self, member: int) -> Any:
        """Returns the parameters of one member."""
        return jax.tree.map(lambda x: x[member], self.parameters)

    def algorithm(self) -> algorithms.Algorithm:
        """Makes the algorithm for acting only, without its mixer.

        Raises: ConfigError if its networks do not fit the environment's spec.
        """
        mixer = mixers.absent() if self.config.algo.mixer else None
        return program.make_algorithm(self.config, self.spec, mixer)


def read(directory: str | os.PathLike[str], kind: Kind = "best") -> TrainedRun:
    """Reads a run directory.

    Raises:
      ConfigError: not the directory of a finished run, or an unknown kind of parameters.
    """
    kinds = get_args(Kind)
    if kind not in kinds:
        raise config.ConfigError(f"policy: parameters={kind!r}; {config.suggest(kind, kinds)}")
    root = pathlib.Path(directory)
    cfg = metadata.read_run_config(root, find)
    if record.read_summary(root) is None:
        raise config.ConfigError(
            f"policy: {str(root)!r} has no final results; give the directory of a finished run"
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
    """Returns the module of an algorithm or agent, which acting needs. Accepts any options of other
    components: they were validated in training, and their packages may be missing here.
    """
    return components.find(kind, name) if kind in ("agents", "algorithms") else _Unchecked


class _AnyOptions(config.Model, extra="allow"):
    """Accepts all options."""


class _Unchecked:
    Config = _AnyOptions


def _spec(fields: Mapping[str, Any]) -> EnvSpec:
    """The spec from its fields in the manifest."""
    values = {name: _tuples(value) for name, value in fields.items()}
    for name, dtype in {"agent_state": np.int32, "neighbours": bool}.items():
        values[name] = None if fields[name] is None else np.array(fields[name], dtype)
    space = Box if "low" in fields["actions"] else Discrete
    values["actions"] = space(**{name: _tuples(value) for name, value in fields["actions"].items()})
    return EnvSpec(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _scores(metrics: Mapping[str, np.ndarray], kind: Kind, spec: EnvSpec) -> dict[str, np.ndarray]:
    """Each member's evaluation of these parameters."""
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
