"""Search spaces in Hydra's override grammar, as Optuna's distributions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser import types

from qmix_jax import config, groups
from qmix_jax.cli import composition


class Dimension(NamedTuple):
    """A searched key.

    Attributes:
      key: the part before `=`.
      text: the override as typed.
      distribution: Optuna's.
      ends: two values of the space, as text.
      n_values: number of values, None if continuous.
    """

    key: str
    text: str
    distribution: Any
    ends: tuple[str, str]
    n_values: int | None

    @property
    def traced(self) -> bool:
        """Whether settings that differ in this key share a compiled program."""
        return self.key.lstrip("+").split(".")[0] in groups.TRACED


class SearchSpace(NamedTuple):
    """The overrides of a search.

    Attributes:
      fixed: overrides that all settings share.
      dimensions: searched keys.
    """

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """Returns the overrides of a setting; `values` are by key."""
        return [*self.fixed, *(f"{key}={_text(value)}" for key, value in values.items())]

    def corners(self) -> list[list[str]]:
        """Returns the overrides of settings that together cover both ends of every dimension."""
        low = {dimension.key: dimension.ends[0] for dimension in self.dimensions}
        high = [low | {dimension.key: dimension.ends[1]} for dimension in self.dimensions]
        return [self.overrides(values) for values in (low, *high)]

    def n_static(self, n_settings: int) -> int:
        """Returns the most compiled programs that `n_settings` settings need for one batch size."""
        product = 1
        for dimension in self.dimensions:
            product *= 1 if dimension.traced else (dimension.n_values or n_settings)
        return min(product, n_settings)


def parse(overrides: Sequence[str], composer: composition.Composer) -> SearchSpace:
    """Splits overrides into fixed and searched ones; ignores those of Hydra, and for a repeated key
    the last one counts.

    Raises:
      ConfigError: no space, or one that is empty or cannot be searched.
    """
    parsed = {
        override.get_key_element(): override
        for override in composer.parse(overrides)
        if not override.is_hydra_override()
    }
    fixed = tuple(
        f"{key}={override.get_value_element_as_str()}"
        for key, override in parsed.items()
        if not override.is_sweep_override()
    )
    dimensions = tuple(
        _dimension(override) for override in parsed.values() if override.is_sweep_override()
    )
    if not dimensions:
        raise config.ConfigError(
            "search: nothing to search; give at least one space, such as "
            "'hparams.learning_rate=tag(log,interval(1e-4,1e-2))', or hydra.sweeper.params in YAML"
        )
    return SearchSpace(fixed, dimensions)


def _dimension(override: types.Override) -> Dimension:
    key, text = override.get_key_element(), str(override.input_line)
    if key == "seed":
        raise config.ConfigError(
            f"search: {text!r}: seeds are averaged over, not searched; use seeds=4"
        )
    value = override.value()
    tags = set(getattr(value, "tags", ()))
    if unknown := sorted(tags - {"log"}):
        raise config.ConfigError(f"search: {text!r}: unknown tag {unknown[0]!r}; allowed: log")
    if isinstance(value, types.IntervalSweep):
        return _interval(key, text, value, bool(tags))
    values = list(override.sweep_string_iterator())
    if not values:
        raise config.ConfigError(f"search: {text!r} has no values; give at least one")
    if tags:
        raise config.ConfigError(f"search: {text!r}: the tag log needs interval(low, high)")
    from optuna import distributions

    distribution = distributions.CategoricalDistribution(values)
    return Dimension(key, text, distribution, (values[0], values[-1]), len(values))


def _interval(key: str, text: str, value: types.IntervalSweep, log: bool) -> Dimension:
    low, high = value.start, value.end
    assert low is not None and high is not None
    if not low < high:
        raise config.ConfigError(f"search: {text!r} is empty; put the lower end first")
    if log and low <= 0:
        raise config.ConfigError(f"search: {text!r}: a log scale needs a lower end above 0")
    from optuna import distributions

    ends = (_text(low), _text(high))
    if isinstance(low, int) and isinstance(high, int):
        distribution = distributions.IntDistribution(low, high, log)
        return Dimension(key, text, distribution, ends, high - low + 1)
    return Dimension(key, text, distributions.FloatDistribution(low, high, log), ends, None)


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
