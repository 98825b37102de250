"""Frozen configuration models, and `load`, which validates a mapping into them.

The defaults are the `modern` preset on SMAX 3m; `configs/` holds the same values with comments.
"""

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BeforeValidator, Field

from qmix_jax import components, reprs, synonyms


class ConfigError(ValueError):
    """An invalid setting. The message is one line: what, where, got, allowed, how to fix."""


class Model(pydantic.BaseModel):
    """Base of every configuration record: frozen, hashable, strict types, no unknown keys."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


_M = TypeVar("_M", bound=Model)


def _integral(value: object) -> object:
    """Accepts integral floats: YAML reads 1e6 as a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(value: object) -> object:
    """Reads `24GiB` or `500 MB` as a number of bytes."""
    if not isinstance(value, str):
        return _integral(value)
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].upper() not in _UNITS:
        return value
    return int(float(match[1]) * _UNITS[match[2].upper()])


Int = Annotated[int, BeforeValidator(_integral)]
PositiveInt = Annotated[Int, Field(gt=0)]
Count = Annotated[Int, Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class ScheduleConfig(Model):
    """Linear from `start` to `end` over `steps`, then constant; a bare number is constant."""

    start: float
    end: float
    steps: PositiveFloat

    @pydantic.model_validator(mode="before")
    @classmethod
    def _constant(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"start": value, "end": value, "steps": 1.0}
        return value


class ExponentialConfig(Model):
    """Geometric from `start` to `end` over `steps`, then constant."""

    start: PositiveFloat
    end: PositiveFloat
    steps: PositiveFloat


class PowerConfig(Model):
    """`start * (1 + t / scale) ** -exponent`."""

    start: PositiveFloat
    scale: PositiveFloat
    exponent: Annotated[float, Field(ge=0)]


class RateScheduleConfig(ScheduleConfig):
    """A schedule of positive values (learning rates)."""

    start: PositiveFloat
    end: Annotated[float, Field(ge=0)]


class FractionScheduleConfig(ScheduleConfig):
    """A schedule of probabilities."""

    start: Fraction
    end: Fraction


class HParamsConfig(Model):
    """Hyperparameters that may differ between members of a population."""

    learning_rate: RateScheduleConfig = RateScheduleConfig(start=2e-3, end=5e-4, steps=20_000.0)
    epsilon: FractionScheduleConfig = FractionScheduleConfig(start=1.0, end=0.05, steps=50_000.0)
    gamma: Fraction = 0.99
    td_lambda: Fraction = 0.3
    reward_scale: PositiveFloat = 10.0
    max_grad_norm: PositiveFloat = 10.0
    target_period: PositiveInt = 200
    target_tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    huber_delta: PositiveFloat = 1.0
    algo: pydantic.SerializeAsAny[Model] = Model()


class ComponentConfig(Model):
    """A component: the module `name`, whose `Config` validates `options`."""

    name: str
    options: pydantic.SerializeAsAny[Model]


class AlgoConfig(Model):
    """An algorithm and its mixer, if any.

    Attributes:
      name: display name, part of the run directory.
      algorithm: the module, whose `Config` validates `options`.
    """

    name: str
    algorithm: str
    options: pydantic.SerializeAsAny[Model]
    mixer: ComponentConfig | None


class OptimiserConfig(Model):
    """The optimiser; its learning rate and clip are `hparams`."""

    name: Literal["adam", "radam", "rmsprop"] = "adam"
    eps: PositiveFloat = 1e-5
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99


StorageDtype = Literal["float32", "float16", "bfloat16", "uint8"]


class ReplayConfig(Model):
    """Replay buffer of one member and its minibatches."""

    kind: Literal["uniform", "prioritised", "on_policy", "transitions"] = "uniform"
    batch_size: PositiveInt = 16
    capacity: PositiveInt | None = None
    byte_budget: Bytes = 512 * 2**20
    obs_dtype: StorageDtype = "float32"
    state_dtype: StorageDtype = "float32"
    priority_exponent: Fraction = 0.6
    importance_exponent: FractionScheduleConfig = FractionScheduleConfig(
        start=0.4, end=1.0, steps=600_000.0
    )


class TrainerConfig(Model):
    """Budget, collection and update-to-data ratio, in env steps unless stated otherwise."""

    env_steps: PositiveInt = 600_000
    warm_up: Count = 5_000
    collector: Literal["episode", "segment", "window"] = "window"
    n_envs: PositiveInt = 64
    window: PositiveInt | None = 16
    burn_in: Count = 0
    gradient_steps: PositiveInt = 32
    truncation: Literal["bootstrap", "terminate"] = "bootstrap"
    log_every: PositiveInt = 25_000


class EvalConfig(Model):
    """Greedy evaluation outside the training budget."""

    every: PositiveInt = 50_000
    episodes: PositiveInt = 128


class PopulationConfig(Model):
    """Distribution of members over devices and processes."""

    batching: Literal["map", "vmap", "auto"] = "auto"
    devices: PositiveInt | None = None
    memory: Bytes | None = None
    slices: bool = True
    distributed: bool = False


class LoggersConfig(Model):
    """Loggers besides the files of the run directory; None disables one. The `Config` of
    `qmix_jax.loggers.<name>` or of the user-defined module validates the options.
    """

    tensorboard: pydantic.SerializeAsAny[Model] | None = None
    wandb: pydantic.SerializeAsAny[Model] | None = None
    custom: ComponentConfig | None = None


class CheckpointConfig(Model):
    """Checkpoints of a run."""

    enabled: bool = True
    every_s: Annotated[float, Field(ge=0)] = 60.0
    keep: PositiveInt = 2
    replay: Literal["always", "running", "never"] = "running"


class StopConfig(Model):
    """Early stopping, by the mean over the run's members; None disables a rule."""

    metric: str | None = None
    at: float | None = None
    patience: PositiveInt | None = None
    seconds: PositiveFloat | None = None


class ExperimentConfig(Model):
    """Everything that defines a run."""

    name: str
    seed: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    seeds: PositiveInt = 2
    precision: Literal["default", "high", "highest", "bfloat16"] = "default"
    compile_cache: bool = True
    resume: Literal["auto"] | None = None
    env: ComponentConfig
    agent: ComponentConfig
    algo: AlgoConfig
    hparams: HParamsConfig = HParamsConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    replay: ReplayConfig = ReplayConfig()
    trainer: TrainerConfig = TrainerConfig()
    eval: EvalConfig = EvalConfig()
    stop: StopConfig = StopConfig()
    population: PopulationConfig = PopulationConfig()
    logger: LoggersConfig = LoggersConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: environment, algorithm and budget, and all non-default settings."""
        fields = {
            "name": self.name,
            "env": self.env.name,
            "agent": self.agent.name,
            "algo": self.algo.name,
            "seed": self.seed,
            "seeds": self.seeds,
            "trainer.env_steps": self.trainer.env_steps,
        }
        named = {"env.name", "agent.name", "algo.name"}
        return fields | {key: value for key, value in _changed(self) if key not in named}

    def __repr__(self) -> str:
        return reprs.text(self)

    def _repr_html_(self) -> str:
        return reprs.html(self)

    __str__ = __repr__


def _changed(
    model: Model, base: Model | None = None, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) where `model` differs from `base`, or else from its defaults."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        default = field.default if base is None else getattr(base, name)
        if isinstance(value, Model):
            same_type = default if type(default) is type(value) else None
            yield from _changed(value, same_type, f"{prefix}{name}.")
        elif value != default:
            yield f"{prefix}{name}", value


_DEFAULTS: dict[str, Any] = {
    "name": "smax_3m",
    "env": {"name": "jaxmarl", "options": {"id": "HeuristicEnemySMAX", "scenario": "3m"}},
    "agent": {"name": "gru"},
    "algo": {"name": "qmix", "algorithm": "td", "mixer": {"name": "qmix"}},
}


def load(mapping: Mapping[str, Any], find: Callable = components.find) -> ExperimentConfig:
    """Validates a nested mapping; missing keys take the models' defaults.

    Args:
      mapping: nested keys as in `configs/`, such as `{"seeds": 4, "env": {"name": "two_step"}}`.
      find: `(kind, name) -> module` with a `Config` that validates the component's `options`.
    Returns:
      A frozen, hashable `ExperimentConfig`.
    Raises:
      ConfigError: unknown key (with the nearest valid one), wrong type, number out of range,
        unknown component; one line with the dotted path.
    """
    raw = {**_DEFAULTS, **_tuples(mapping)}
    if "env" in mapping and "name" not in mapping and isinstance(raw["env"], Mapping):
        raw["name"] = str(raw["env"].get("name")).rpartition(".")[2]
    hparams_model = Model
    for kind, path in (("envs", ("env",)), ("agents", ("agent",))):
        raw[path[0]], _ = _component(kind, raw[path[0]], path, find)
    algo = raw["algo"]
    if isinstance(algo, Mapping):
        algo = dict(algo)
        if "algorithm" in algo:
            algo, module = _component("algorithms", algo, ("algo",), find, key="algorithm")
            hparams_model = getattr(module, "Coefficients", Model)
        if algo.get("mixer") is not None:
            algo["mixer"], _ = _component("mixers", algo["mixer"], ("algo", "mixer"), find)
        raw["algo"] = {"mixer": None, **algo}
    if isinstance(raw.get("logger"), Mapping):
        raw["logger"] = _loggers(raw["logger"], find)
    if isinstance(hparams := raw.get("hparams", {}), Mapping):
        algo_hparams = validate(hparams_model, hparams.get("algo", {}), ("hparams", "algo"))
        raw["hparams"] = {**hparams, "algo": algo_hparams}
    return validate(ExperimentConfig, raw, ())


def dump(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the nested mapping of plain values that `load` accepts."""
    return config.model_dump(mode="json")


def with_values(
    config: ExperimentConfig, values: Mapping[str, Any], find: Callable = components.find
) -> ExperimentConfig:
    """Returns a validated copy with some dotted keys changed, such as `{"hparams.gamma": 0.9}`.

    `find` as for `load`.
    """
    mapping = dump(config)
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = mapping
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ConfigError(f"config: {unknown_key(path, sorted(mapping))}")
        node[leaf] = value
    return load(mapping, find)


def suggest(word: str, allowed: Sequence[str]) -> str:
    """Returns the end of an error message: the entry of `allowed` nearest to `word`, and all."""
    near = difflib.get_close_matches(word, allowed, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(allowed) or 'none'}"


def unknown_key(key: str, allowed: Sequence[str], keys: Sequence[str] = ()) -> str:
    """Describes a dotted key that does not exist, with the key that was probably meant.

    Args:
      allowed: the valid keys of its section, dotted or without the section.
      keys: all dotted keys; by default those of `ExperimentConfig`.
    """
    section, _, leaf = key.rpartition(".")
    keys = keys or tuple(_dotted_keys(ExperimentConfig))
    elsewhere = (path for path in keys if path.rpartition(".")[2] == leaf.lower() and path != key)
    meant = synonyms.find(key) or next(elsewhere, "")
    other_section, _, other_leaf = meant.rpartition(".")
    if meant and (other_section != section or {meant, other_leaf} & set(allowed)):
        choices = ", ".join(allowed) or "none"
        return f"unknown key {key!r}; did you mean {meant!r}? allowed: {choices}"
    dotted = not section or any("." in name for name in allowed)
    return f"unknown key {key!r}; {suggest(key if dotted else leaf, allowed)}"


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def _component(
    kind: str, raw: Any, path: tuple[str, ...], find: Callable, key: str = "name"
) -> tuple[Any, Any]:
    """Returns a raw component with validated options, and its module."""
    where = ".".join(path)
    if not isinstance(raw, Mapping) or not isinstance(raw.get(key), str):
        raise ConfigError(
            f"config: {where}={raw!r}: expected a mapping with a string `{key}` and `options`; "
            f"set {where}.{key}"
        )
    try:
        module = find(kind, raw[key])
    except components.ComponentError as error:
        raise ConfigError(f"config: {where}.{key}={raw[key]!r}: {error}") from error
    except Exception as error:  # anything that a user-defined module raises
        if "." not in raw[key]:
            raise
        raise ConfigError(
            f"config: {where}.{key}={raw[key]!r}: importing it raised "
            f"{components.describe(error)}; fix it"
        ) from error
    options = raw.get("options", {})
    return {**raw, "options": validate(module.Config, options, (*path, "options"))}, module


def _loggers(raw: Mapping[str, Any], find: Callable) -> dict[str, Any]:
    """Returns the raw loggers with validated options."""
    chosen = dict(raw)
    for name in ("tensorboard", "wandb"):
        if chosen.get(name) is not None:
            chosen[name] = validate(find("loggers", name).Config, chosen[name], ("logger", name))
    if chosen.get("custom") is not None:
        chosen["custom"], _ = _component("loggers", chosen["custom"], ("logger", "custom"), find)
    return chosen


def validate(model: type[_M], raw: Any, path: tuple[str, ...]) -> _M:
    """Validates a mapping of plain values.

    Args:
      path: parts of the mapping's dotted path, for messages.
    Raises:
      ConfigError: unknown or missing key, wrong type, number out of range; one line.
    """
    if isinstance(raw, model):
        return raw
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as error:
        # A misspelt key also makes its right name missing: report the misspelling.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(_explain(model, problems[0], path) + more) from None


def _explain(model: type[Model], problem: Any, path: tuple[str, ...]) -> str:
    loc = [str(part) for part in problem["loc"]]
    where = ".".join((*path, *loc)) or "configuration"
    got = problem["input"]
    if problem["type"] == "extra_forbidden":
        known = _keys_at(model, loc[:-1])
        return f"config: {unknown_key(where, known)}"
    if problem["type"] == "missing":
        return f"config: {where} is missing; set it"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"config: {where}={got!r}: {message}; got {type(got).__name__} {got!r}"


def _dotted_keys(model: type[Model], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if _is_model(nested := _bare(field.annotation)):
            yield from _dotted_keys(nested, f"{prefix}{name}.")


def _keys_at(model: type[Model], loc: list[str]) -> list[str]:
    """Returns the valid keys of the nested model at an error location."""
    node: Any = model
    for part in loc:
        if _is_model(node) and part in node.model_fields:
            node = _bare(node.model_fields[part].annotation)
    return sorted(node.model_fields) if _is_model(node) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Model)


def _bare(annotation: Any) -> Any:
    """Strips `| None` and `Annotated`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation
