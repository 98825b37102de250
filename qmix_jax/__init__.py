"""QMIX and its family, trained end to end in JAX.

Names are imported on first use, so `import qmix_jax` is quick and starts no JAX backend.
"""

import ast
import importlib
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the public names; `_EXPORTS` reads these imports at run time
    from qmix_jax.api import Halving as Halving
    from qmix_jax.api import Job as Job
    from qmix_jax.api import Objective as Objective
    from qmix_jax.api import Result as Result
    from qmix_jax.api import Session as Session
    from qmix_jax.api import load_run as load_run
    from qmix_jax.api import plan_runs as plan_runs
    from qmix_jax.api import resume as resume
    from qmix_jax.api import resume_many as resume_many
    from qmix_jax.api import start as start
    from qmix_jax.api import train as train
    from qmix_jax.api import train_many as train_many
    from qmix_jax.cli.composition import load as compose_config
    from qmix_jax.config import ConfigError as ConfigError
    from qmix_jax.config import ExperimentConfig as ExperimentConfig
    from qmix_jax.config import dump as dump_config
    from qmix_jax.config import load as load_config
    from qmix_jax.config import with_values as with_values
    from qmix_jax.conformance.build import Conformance as Conformance
    from qmix_jax.conformance.build import check_env as check_env
    from qmix_jax.deploy.evaluation import Evaluation as Evaluation
    from qmix_jax.deploy.evaluation import evaluate_run as evaluate_run
    from qmix_jax.deploy.export import export_run as export_run
    from qmix_jax.deploy.policy import load_policy as load_policy
    from qmix_jax.deploy.runner import Policy as Policy
    from qmix_jax.doctor.examine import Diagnosis as Diagnosis
    from qmix_jax.doctor.examine import run_doctor as run_doctor
    from qmix_jax.doctor.rerun import Rerun as Rerun
    from qmix_jax.doctor.rerun import rerun as rerun
    from qmix_jax.lab.baseline import Baseline as Baseline
    from qmix_jax.lab.baseline import baseline as baseline
    from qmix_jax.lab.build import Lab as Lab
    from qmix_jax.lab.build import run_lab as run_lab
    from qmix_jax.lab.episode import inspect_episode as inspect_episode
    from qmix_jax.lab.measure import GameTables as GameTables
    from qmix_jax.lab.measure import game_tables as game_tables
    from qmix_jax.lab.weights import weights as weights
    from qmix_jax.machine.process_group import ProcessError as ProcessError
    from qmix_jax.render.build import Rendered as Rendered
    from qmix_jax.render.build import render_run as render_run
    from qmix_jax.reports.build import Report as Report
    from qmix_jax.reports.build import report as report
    from qmix_jax.runs.checkpoint import WriteError as WriteError
    from qmix_jax.runs.outcomes import NonFiniteError as NonFiniteError
    from qmix_jax.runs.parameters import load_parameters as load_parameters

__version__ = "0.1.0"

_EXPORTS = {
    alias.asname: (str(node.module), alias.name)
    for node in ast.walk(ast.parse(pathlib.Path(__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
    if alias.asname is not None
}
"""Public name -> (module, attribute)."""
__all__ = ["__version__", "compose_config", "dump_config", "load_config"]
"""Names that type checkers do not consider exported; the next line adds the others."""
__all__ += sorted({*_EXPORTS} - {*__all__})  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'qmix_jax' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
