"""Facts on the algorithm pages, from configurations, docstrings and component bundles."""

import functools
from types import ModuleType
from typing import NamedTuple

import numpy as np

from pages import configuration, docstrings, markdown, yaml_files
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
      modules: `Mixer`, if any, and `Algorithm` -> module.
      guarantee: how its joint value relates to the agents' best actions.
    """

    name: str
    file: yaml_files.File
    modules: dict[str, ModuleType]
    guarantee: str


@functools.cache
def all_algorithms() -> dict[str, Algorithm]:
    """Every choice of `algo`, by name."""
    return {name: _algorithm(name, file) for name, file in yaml_files.choices("algo").items()}


def facts(name: str) -> str:
    """Command, guarantee, deviations, options and docstrings of an algorithm, as Markdown.

    Raises: LookupError for an unknown name.
    """
    algorithm = all_algorithms()[name]
    trainer = " trainer=pqn" if name.startswith("pqn_") else ""
    docs = "\n\n".join(_module_docs(role, module) for role, module in algorithm.modules.items())
    parts = [
        f"```sh\nqmix-jax train{trainer} algo={name}\n```",
        f"**Joint value.** {algorithm.guarantee}",
        "**Deviations**",
        _deviation_list(algorithm),
        f"**Options**, with the defaults of `configs/algo/{name}.yaml`",
        *_option_tables(algorithm),
        '<details markdown="1">\n<summary>Docstrings</summary>',
        docs,
        "</details>",
    ]
    return "\n\n".join(part.strip() for part in parts)


def table() -> str:
    """All algorithms, one per row."""
    rows = [
        (
            f"[`{name}`]({_page(name)}#{name})",
            markdown.prose(all_algorithms()[name].file.summary),
            ", ".join(f"`{_short(module)}`" for module in all_algorithms()[name].modules.values()),
            all_algorithms()[name].guarantee,
        )
        for names in FAMILIES.values()
        for name in names
    ]
    return markdown.table(("`algo`", "description", "modules", "joint value"), rows)


def deviations() -> str:
    """Every deviation that a docstring states."""
    rows, faithful = [], []
    for deviation in docstrings.deviations():
        place = f"`{deviation.place.removeprefix('qmix_jax.')}`"
        if deviation.text.startswith("none"):
            faithful.append(place)
        else:
            rows.append(
                (place, markdown.prose(deviation.reference), markdown.prose(deviation.text))
            )
    header = ("where", "reference", "deviation")
    return f"{markdown.table(header, rows)}\nAs in their references: {', '.join(faithful)}.\n"


def deviations_of(name: str) -> dict[str, str]:
    """Module name -> its deviation, for the modules of an algorithm."""
    modules = all_algorithms()[name].modules.values()
    return {module.__name__: docstrings.reference(module.__doc__)[1] for module in modules}


def _algorithm(name: str, file: yaml_files.File) -> Algorithm:
    modules = {}
    mixer_name = file.values.get("algo.mixer.name")
    if mixer_name is not None:
        modules["Mixer"] = components.find("mixers", str(mixer_name))
    modules["Algorithm"] = components.find("algorithms", str(file.values["algo.algorithm"]))
    return Algorithm(name, file, modules, _guarantee(modules))


def _guarantee(modules: dict[str, ModuleType]) -> str:
    if "Mixer" not in modules:
        if modules["Algorithm"].__name__.endswith(".iql"):
            return "None."
        return "Unrestricted; a sum of utilities is fitted to it."
    bundle = modules["Mixer"].make(modules["Mixer"].Config(), _SPEC)
    if modules["Algorithm"].__name__.endswith(".wqmix"):
        return "Monotonic, so IGM holds; a second one is unrestricted."
    if bundle.monotonic:
        return "Monotonic, so IGM holds."
    return "Not monotonic; IGM holds." if bundle.igm else "No guarantee."


def _module_docs(role: str, module: ModuleType) -> str:
    """A module's docstring without its deviation, which has a heading of its own."""
    text = markdown.paragraphs(docstrings.parse(module.__doc__).text)
    paper, _ = docstrings.reference(module.__doc__)
    reference = f"\n\nReference: {markdown.prose(paper)}" if paper else ""
    return f"{role} `{module.__name__}`\n\n{text}{reference}"


def _deviation_list(algorithm: Algorithm) -> str:
    lines = []
    for module in algorithm.modules.values():
        _, text = docstrings.reference(module.__doc__)
        if not text:
            raise LookupError(f"{module.__name__} states no deviation; write `Deviation: none.`")
        lines.append(f"- `{_short(module)}`: {markdown.prose(text)}")
    lines.append("- [Deviations of all algorithms](index.md#shared-by-all-algorithms)")
    return "\n".join(lines)


def _option_tables(algorithm: Algorithm) -> list[str]:
    tables = []
    for role, path in (("Mixer", "algo.mixer.options"), ("Algorithm", "algo.options")):
        if role not in algorithm.modules:
            continue
        module = algorithm.modules[role]
        models = {path: module.Config, "hparams.algo": getattr(module, "Coefficients", None)}
        tables += [
            configuration.option_table(
                section, model, algorithm.file.comments, _values(algorithm.file, section)
            )
            for section, model in models.items()
            if model is not None and model.model_fields
        ]
    return tables


def _values(file: yaml_files.File, section: str) -> dict[str, object]:
    """Option -> value of a section of the file."""
    return {
        key.removeprefix(f"{section}."): value
        for key, value in file.values.items()
        if key.startswith(f"{section}.")
    }


def _page(name: str) -> str:
    """Raises: LookupError for an algorithm without a page."""
    for page, names in FAMILIES.items():
        if name in names:
            return f"{page}.md"
    raise LookupError(f"algo={name} has no page: add it to FAMILIES and to docs/algorithms")


def _short(module: ModuleType) -> str:
    return module.__name__.removeprefix("qmix_jax.")
