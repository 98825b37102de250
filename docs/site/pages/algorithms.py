"""What the algorithm pages state as fact: composed from configurations, docstrings and bundles."""

import functools
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from pages import comments, configuration, docstrings, markdown
from qmix_jax import components
from qmix_jax.types import Discrete, EnvSpec

FAMILIES = {
    "independent": ("iql",),
    "sums": ("vdn", "vdn_s", "qmix_lin"),
    "qmix": ("qmix", "qmix_ns"),
    "qatten": ("qatten",),
    "qplex": ("qplex", "qplex_attention"),
    "qtran": ("qtran_base", "qtran_alt"),
    "weighted": ("cw_qmix", "ow_qmix"),
    "pqn": ("pqn_vdn", "pqn_qmix"),
}
"""Page in `docs/algorithms` -> the algorithms on it."""

_SPEC = EnvSpec(
    name="any",
    agent_names=("a", "b"),
    agent_groups=(0, 0),
    actions=Discrete(2),
    obs_shapes=((1,), (1,)),
    obs_shape=(1,),
    state_size=2,
    max_steps=1,
    agent_state=np.array([[0], [1]], np.int32),
)


class Algorithm(NamedTuple):
    """One choice of `algo`.

    Attributes:
      file: its YAML file.
      modules: its mixer's, if it has one, and its algorithm's: dotted section -> module.
      guarantee: what holds between its joint value and the agents' own best actions.
    """

    name: str
    file: comments.File
    modules: dict[str, ModuleType]
    guarantee: str


@functools.cache
def all_algorithms() -> dict[str, Algorithm]:
    """Every choice of `algo`, by name."""
    return {name: _algorithm(name, file) for name, file in comments.files("algo").items()}


def facts(name: str) -> str:
    """Equations, references, deviations and defaults of an algorithm, as Markdown.

    Raises: LookupError for an unknown name.
    """
    own = all_algorithms()[name]
    trainer = " trainer=pqn" if name.startswith("pqn_") else ""
    code = "\n\n".join(_explained(role, module) for role, module in own.modules.items())
    parts = [
        f"```sh\nqmix-jax train{trainer} algo={name}\n```",
        f"**Joint value.** {own.guarantee}",
        "**Deviations**",
        _deviations_of(own),
        f"**Options**, with the defaults of `configs/algo/{name}.yaml`",
        *_options(own),
        f'??? note "What the code says"\n\n{textwrap.indent(code, "    ")}',
    ]
    return "\n\n".join(parts)


def table() -> str:
    """All algorithms, one per row."""
    rows = [
        (
            f"[`{own.name}`]({_page_of(own)}#{own.name})",
            markdown.prose(own.file.about),
            ", ".join(
                f"`{module.__name__.removeprefix('qmix_jax.')}`" for module in own.modules.values()
            ),
            own.guarantee,
        )
        for names in FAMILIES.values()
        for own in map(all_algorithms().__getitem__, names)
    ]
    return markdown.table(("`algo`", "what it is", "modules", "joint value"), rows)


def deviations() -> str:
    """Every deviation that a docstring states."""
    rows = [
        (
            f"`{found.place.removeprefix('qmix_jax.')}`",
            markdown.prose(found.reference),
            markdown.prose(found.text),
        )
        for found in docstrings.deviations()
        if not found.text.startswith("none")
    ]
    none = [
        f"`{found.place.removeprefix('qmix_jax.')}`"
        for found in docstrings.deviations()
        if found.text.startswith("none")
    ]
    header = ("where", "reference", "deviation")
    return f"{markdown.table(header, rows)}\nAs their references say: {', '.join(none)}.\n"


def deviations_of(name: str) -> dict[str, str]:
    """Module name -> its deviation, of an algorithm's own modules."""
    modules = all_algorithms()[name].modules.values()
    return {m.__name__: docstrings.reference(m.__doc__)[1] for m in modules}


def _algorithm(name: str, file: comments.File) -> Algorithm:
    modules = {}
    mixer_name = file.values.get("algo.mixer.name")
    if mixer_name is not None:
        modules["Mixer"] = components.find("mixers", str(mixer_name))
    algorithm = str(file.values["algo.algorithm"])
    modules["Algorithm"] = components.find("algorithms", algorithm)
    return Algorithm(name, file, modules, _guarantee(modules))


def _guarantee(modules: dict[str, ModuleType]) -> str:
    if "Mixer" not in modules:
        if modules["Algorithm"].__name__.endswith(".iql"):
            return "None."
        return "Unrestricted; a sum of utilities is bound to it."
    bundle = modules["Mixer"].make(modules["Mixer"].Config(), _SPEC)
    if modules["Algorithm"].__name__.endswith(".wqmix"):
        return "Monotonic, so IGM holds; beside it a second, unrestricted one."
    if bundle.monotonic:
        return "Monotonic, so IGM holds."
    return "Not monotonic; IGM holds." if bundle.igm else "Nothing is guaranteed."


def _explained(role: str, module: ModuleType) -> str:
    """A module's docstring without the deviation, which has its own heading."""
    parsed = docstrings.parse(module.__doc__)
    paper, _ = docstrings.reference(module.__doc__)
    text = f"{role} `{module.__name__}`\n\n{markdown.paragraphs(parsed.text)}"
    return f"{text}\n\nReference: {markdown.prose(paper)}" if paper else text


def _deviations_of(own: Algorithm) -> str:
    lines = []
    for module in own.modules.values():
        _, text = docstrings.reference(module.__doc__)
        if not text:
            raise LookupError(f"{module.__name__} states no deviation; write `Deviation: none.`")
        short = module.__name__.removeprefix("qmix_jax.")
        lines.append(f"- `{short}`: {markdown.prose(text)}")
    return "\n".join([*lines, "- and [what all algorithms share](index.md#what-all-share)"])


def _options(own: Algorithm) -> list[str]:
    parts = []
    sections: Sequence[tuple[str, str]] = (
        ("Mixer", "algo.mixer"),
        ("Algorithm", "algo"),
    )
    for role, section in sections:
        if role not in own.modules:
            continue
        module, path = own.modules[role], f"{section}.options"
        if module.Config.model_fields:
            values = _listed(own, path)
            parts.append(configuration.option_table(path, module.Config, own.file.comments, values))
        coefficients = getattr(module, "Coefficients", None)
        if coefficients is not None:
            values = _listed(own, "hparams.algo")
            parts.append(
                configuration.option_table("hparams.algo", coefficients, own.file.comments, values)
            )
    return parts


def _listed(own: Algorithm, path: str) -> dict[str, object]:
    return {
        key.removeprefix(f"{path}."): value
        for key, value in own.file.values.items()
        if key.startswith(f"{path}.")
    }


def _page_of(own: Algorithm) -> str:
    """Raises: LookupError for an algorithm without a page."""
    pages = [page for page, names in FAMILIES.items() if own.name in names]
    if not pages:
        raise LookupError(f"algo={own.name} has no page: add it to FAMILIES and to docs/algorithms")
    return f"{pages[0]}.md"
