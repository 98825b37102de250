"""QMIX and its family, trained end to end in JAX.

Names are imported on first use, so `import qmix_jax` is quick and starts no JAX backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmix_jax.api import (
        Halving,
        Job,
        Objective,
        Result,
        Session,
        load_run,
        plan_runs,
        resume,
        resume_many,
        start,
        train,
        train_many,
    )
    from qmix_jax.cli.composition import load as compose_config
    from qmix_jax.config import ConfigError, ExperimentConfig, with_values
    from qmix_jax.config import dump as dump_config
    from qmix_jax.config import load as load_config
    from qmix_jax.conformance.build import Conformance, check_env
    from qmix_jax.deploy.evaluation import Evaluation, evaluate_run
    from qmix_jax.deploy.export import export_run
    from qmix_jax.deploy.policy import load_policy
    from qmix_jax.deploy.runner import Policy
    from qmix_jax.doctor.examine import Diagnosis, run_doctor
    from qmix_jax.doctor.rerun import Rerun, rerun
    from qmix_jax.lab.baseline import Baseline, baseline
    from qmix_jax.lab.build import Lab, run_lab
    from qmix_jax.lab.episode import inspect_episode
    from qmix_jax.lab.measure import GameTables, game_tables
    from qmix_jax.lab.weights import weights
    from qmix_jax.machine.process_group import ProcessError
    from qmix_jax.render.build import Rendered, render_run
    from qmix_jax.reports.build import Report, report
    from qmix_jax.runs.checkpoint import WriteError
    from qmix_jax.runs.outcomes import NonFiniteError
    from qmix_jax.runs.parameters import load_parameters

__version__ = "0.1.0"

__all__ = [
    "Baseline",
    "ConfigError",
    "Conformance",
    "Diagnosis",
    "Evaluation",
    "ExperimentConfig",
    "GameTables",
    "Halving",
    "Job",
    "Lab",
    "NonFiniteError",
    "Objective",
    "Policy",
    "ProcessError",
    "Rendered",
    "Report",
    "Rerun",
    "Result",
    "Session",
    "WriteError",
    "__version__",
    "baseline",
    "check_env",
    "compose_config",
    "dump_config",
    "evaluate_run",
    "export_run",
    "game_tables",
    "inspect_episode",
    "load_config",
    "load_parameters",
    "load_policy",
    "load_run",
    "plan_runs",
    "render_run",
    "report",
    "rerun",
    "resume",
    "resume_many",
    "run_doctor",
    "run_lab",
    "start",
    "train",
    "train_many",
    "weights",
    "with_values",
]

_HOMES = {
    "Baseline": ("qmix_jax.lab.baseline", "Baseline"),
    "ConfigError": ("qmix_jax.config", "ConfigError"),
    "Evaluation": ("qmix_jax.deploy.evaluation", "Evaluation"),
    "evaluate_run": ("qmix_jax.deploy.evaluation", "evaluate_run"),
    "export_run": ("qmix_jax.deploy.export", "export_run"),
    "load_policy": ("qmix_jax.deploy.policy", "load_policy"),
    "Policy": ("qmix_jax.deploy.runner", "Policy"),
    "Halving": ("qmix_jax.api", "Halving"),
    "Objective": ("qmix_jax.api", "Objective"),
    "Conformance": ("qmix_jax.conformance.build", "Conformance"),
    "check_env": ("qmix_jax.conformance.build", "check_env"),
    "ExperimentConfig": ("qmix_jax.config", "ExperimentConfig"),
    "Job": ("qmix_jax.api", "Job"),
    "GameTables": ("qmix_jax.lab.measure", "GameTables"),
    "game_tables": ("qmix_jax.lab.measure", "game_tables"),
    "inspect_episode": ("qmix_jax.lab.episode", "inspect_episode"),
    "Lab": ("qmix_jax.lab.build", "Lab"),
    "run_lab": ("qmix_jax.lab.build", "run_lab"),
    "NonFiniteError": ("qmix_jax.runs.outcomes", "NonFiniteError"),
    "Rendered": ("qmix_jax.render.build", "Rendered"),
    "Report": ("qmix_jax.reports.build", "Report"),
    "Rerun": ("qmix_jax.doctor.rerun", "Rerun"),
    "rerun": ("qmix_jax.doctor.rerun", "rerun"),
    "Diagnosis": ("qmix_jax.doctor.examine", "Diagnosis"),
    "run_doctor": ("qmix_jax.doctor.examine", "run_doctor"),
    "ProcessError": ("qmix_jax.machine.process_group", "ProcessError"),
    "WriteError": ("qmix_jax.runs.checkpoint", "WriteError"),
    "Result": ("qmix_jax.api", "Result"),
    "baseline": ("qmix_jax.lab.baseline", "baseline"),
    "compose_config": ("qmix_jax.cli.composition", "load"),
    "dump_config": ("qmix_jax.config", "dump"),
    "load_config": ("qmix_jax.config", "load"),
    "load_parameters": ("qmix_jax.runs.parameters", "load_parameters"),
    "load_run": ("qmix_jax.api", "load_run"),
    "with_values": ("qmix_jax.config", "with_values"),
    "plan_runs": ("qmix_jax.api", "plan_runs"),
    "render_run": ("qmix_jax.render.build", "render_run"),
    "report": ("qmix_jax.reports.build", "report"),
    "resume": ("qmix_jax.api", "resume"),
    "resume_many": ("qmix_jax.api", "resume_many"),
    "start": ("qmix_jax.api", "start"),
    "Session": ("qmix_jax.api", "Session"),
    "train": ("qmix_jax.api", "train"),
    "train_many": ("qmix_jax.api", "train_many"),
    "weights": ("qmix_jax.lab.weights", "weights"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qmix_jax' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
