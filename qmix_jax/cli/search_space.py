"""Search spaces in Hydra's override grammar, as Optuna's distributions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra import errors
from hydra.core.override_parser import overrides_parser, types

from qmix_jax import config, groups


class Dimension(NamedTuple):
    """Attributes:
    key: what comes before `=`.
    text: the override as typed.
    distribution: Optuna's.
    ends: two values of the space, as text.
    n_values: number of values, None where they are a continuum.
    """

    key: str
    text: str
    distribution: Any
    ends: tuple[str, str]
    n_values: int | None

    @property
    def traced(self) -> bool:
        """Whether settings that differ here share a compiled program."""
        return self.key.lstrip("+").split(".")[0] in groups.TRACED


class SearchSpace(NamedTuple):
    """Attributes:
    fixed: overrides that every setting has.
    dimensions: what is searched.
    """

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """Of the setting with these values, by key."""
        return [*self.fixed, *(f"{key}={_text(value)}" for key, value in values.items())]

    def corners(self) -> list[list[str]]:
        """Overrides of settings that between them have both ends of every dimension."""
        low = {dimension.key: dimension.ends[0] for dimension in self.dimensions}
        high = [low | {dimension.key: dimension.ends[1]} for dimension in self.dimensions]
        return [self.overrides(values) for values in (low, *high)]

    def n_static(self, most: int) -> int:
        """Compiled programs that `most` settings may need, batch sizes apart."""
        product = 1
        for dimension in self.dimensions:
            product *= 1 if dimension.traced else (dimension.n_values or most)
        return min(product, most)


def parse(overrides: Sequence[str], loader: Any = None) -> SearchSpace:
    """Sorts overrides into what is fixed and what is searched; Hydra's own are left out.

    Raises:
      ConfigError: a space that is empty or cannot be searched, or no space at all.
    """
    try:
        parsed = overrides_parser.OverridesParser.create(loader).parse_overrides(list(overrides))
    except errors.HydraException as error:
        raise config.ConfigError(f"config: {' '.join(str(error).split())}") from error
    own = [override for override in parsed if not override.is_hydra_override()]
    fixed = tuple(
        f"{override.get_key_element()}={override.get_value_element_as_str()}"
        for override in own
        if not override.is_sweep_override()
    )
    dimensions = tuple(_dimension(one) for one in own if one.is_sweep_override())
    if not dimensions:
        raise config.ConfigError(
            "search: nothing to search; give at least one space, for example "
            "'hparams.learning_rate=tag(log,interval(1e-4,1e-2))'"
        )
    return SearchSpace(fixed, dimensions)


def _dimension(override: types.Override) -> Dimension:
    key, text = override.get_key_element(), str(override.input_line)
    if key == "seed":
        raise config.ConfigError(
            f"search: {text!r}: seeds are averaged over, not searched; set seeds=4 instead"
        )
    value = override.value()
    tags = set(getattr(value, "tags", ()))
    if unknown := sorted(tags - {"log"}):
        raise config.ConfigError(f"search: {text!r} has tag {unknown[0]!r}; only log is known")
    if isinstance(value, types.IntervalSweep):
        return _interval(key, text, value, bool(tags))
    values = list(override.sweep_string_iterator())
    if not values:
        raise config.ConfigError(f"search: {text!r} has no values; give at least one")
    if tags:
        raise config.ConfigError(f"search: {text!r}: log belongs to interval(low, high)")
    from optuna import distributions

    distribution = distributions.CategoricalDistribution(values)
    return Dimension(key, text, distribution, (values[0], values[-1]), len(values))


def _interval(key: str, text: str, value: types.IntervalSweep, log: bool) -> Dimension:
    low, high = value.start, value.end
    assert low is not None and high is not None
    if not low < high:
        raise config.ConfigError(f"search: {text!r} is empty; the first end must be the lower one")
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
