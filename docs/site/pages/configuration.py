"""The reference of every configuration key: type and range from the models, meaning from YAML."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pages import markdown, yaml_files
from qmix_jax import components, config, groups
from qmix_jax.cli import composition, search, submit

_HEADER = ("key", "default", "allowed", "meaning")
_HYDRA = (
    ("launcher", "fused", submit.LocalOptions),
    ("launcher", "fused_local", submit.LocalOptions),
    ("launcher", "fused_slurm", submit.SlurmOptions),
    ("sweeper", "optuna", search.SweeperSettings),
)
_SECTIONS = ("env", "agent", "algo")
"""Sections whose keys depend on a component."""


def reference() -> str:
    """All sections as Markdown."""
    parts = [*_core(), *_presets(), *_environments(), *_agents(), *_algorithms()]
    parts += [*_loggers(), *_experiments(), *_others(), *_hydra()]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def option_table(
    path: str,
    model: type[config.Model],
    comments: Mapping[str, str],
    defaults: Mapping[str, Any],
    anchor: str | None = None,
) -> str:
    """A table of a component's options.

    Args:
      path: dotted key of the options, such as `algo.mixer.options`.
      model: the component's `Config`.
      comments: dotted key -> comment.
      defaults: option -> default; nested options as nested mappings.
      anchor: replaces `path` in the anchors of the rows; None for no anchors.
    """
    schema = model.model_json_schema()
    rows = _rows(path, schema, comments, yaml_files.flatten({path: dict(defaults)}))
    return _with_anchors(rows, path, anchor)


def _core() -> list[str]:
    """The root keys, and a section for each nested model."""
    schema = config.ExperimentConfig.model_json_schema()
    comments = {**yaml_files.read("trainer/modern").comments, **yaml_files.read("config").comments}
    defaults = yaml_files.flatten(config.dump(config.load({})))
    parts = ["## Run", _table([("", schema, _leaves(schema))], comments, defaults)]
    for name, field in schema["properties"].items():
        if name in _SECTIONS or name in _leaves(schema):
            continue
        node = _resolve(field, schema)
        summary = _sentence(node.get("description", ""))
        parts += [f"## {name}", summary, _table([(name, node, None)], comments, defaults, schema)]
    return parts


def _leaves(schema: Mapping[str, Any]) -> list[str]:
    """Keys of the root that are not sections."""
    fields = schema["properties"].items()
    return [name for name, field in fields if "properties" not in _resolve(field, schema)]


def _table(
    parts: Iterable[tuple[str, Mapping[str, Any], Sequence[str] | None]],
    comments: Mapping[str, str],
    defaults: Mapping[str, object],
    root: Mapping[str, Any] | None = None,
) -> str:
    rows = [
        row
        for path, schema, only in parts
        for row in _rows(path, schema, comments, defaults, root or schema, only)
    ]
    return _with_anchors(rows, "", "")


def _with_anchors(rows: Iterable[tuple[str, str, str, str]], path: str, anchor: str | None) -> str:
    """Formats the rows; the anchor of a row is its key, with `path` replaced by `anchor`."""

    def cell(key: str) -> str:
        if anchor is None:
            return f"`{key}`"
        return f"{markdown.anchor(anchor + key.removeprefix(path))}`{key}`"

    return markdown.table(_HEADER, ((cell(key), *rest) for key, *rest in rows))


def _rows(
    path: str,
    schema: Mapping[str, Any],
    comments: Mapping[str, str],
    defaults: Mapping[str, object],
    root: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
) -> list[tuple[str, str, str, str]]:
    """One row per key below `path`, nested models flattened.

    Raises: LookupError for a key without comment.
    """
    root = root or schema
    rows = []
    for name, field in schema.get("properties", {}).items():
        if only is not None and name not in only:
            continue
        key = f"{path}.{name}" if path else name
        node = _resolve(field, root)
        if node.get("properties"):
            rows += _rows(key, node, comments, defaults, root)
            continue
        if key not in comments:
            raise LookupError(f"configs/: {key} has no comment in the files that list it")
        allowed = _allowed(field, root)
        rows.append((key, _default(key, defaults), allowed, _meaning(key, comments[key])))
    return rows


def _default(key: str, defaults: Mapping[str, object]) -> str:
    """The default of a key; that of a mapping may be flattened below the key."""
    if key in defaults:
        return markdown.code(defaults[key])
    below = {k.removeprefix(f"{key}."): v for k, v in defaults.items() if k.startswith(f"{key}.")}
    return markdown.code(below)


def _meaning(key: str, comment: str) -> str:
    text = markdown.prose(comment.replace(" (traced)", ""))
    return f"*Traced:* {text}" if key in groups.TRACED else text


def _resolve(field: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a field refers to."""
    reference = field.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else field


def _allowed(field: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """`integer > 0 or null`, `` `adam`, `radam`, `rmsprop` ``."""
    node = _resolve(field, root)
    if "anyOf" in node:
        return " or ".join(_allowed(part, root) for part in node["anyOf"])
    if "const" in node:
        return markdown.code(node["const"])
    if "enum" in node:
        return ", ".join(markdown.code(value) for value in node["enum"])
    kind = node.get("type", "any value")
    names = {"string": "text", "object": "mapping", "array": "list", "boolean": "`true`, `false`"}
    if kind == "array" and node.get("items", {}).get("maxItems") == 2:
        return "mapping"  # which a frozen model stores as pairs
    if kind == "array" and isinstance(node.get("items"), Mapping) and node["items"].get("type"):
        return f"list of {_allowed(node['items'], root)}"
    return names.get(kind, kind) + _range(node)


def _range(node: Mapping[str, Any]) -> str:
    # behind a validator, ranges have pydantic's names instead of the schema's
    low, high = (node.get(a, node.get(b)) for a, b in (("minimum", "ge"), ("maximum", "le")))
    above, below = (
        node.get(a, node.get(b))
        for a, b in (("exclusiveMinimum", "gt"), ("exclusiveMaximum", "lt"))
    )
    if low is not None and high is not None:
        return f", {markdown.value_text(low)}&nbsp;to&nbsp;{markdown.value_text(high)}"
    signs = (("&gt;", above), ("&gt;=", low), ("&lt;", below), ("&lt;=", high))
    bounds = [f"{sign}&nbsp;{markdown.value_text(end)}" for sign, end in signs if end is not None]
    return f" {' and '.join(bounds)}" if bounds else ""


def _sentence(text: str) -> str:
    return markdown.prose(" ".join(text.split())) + "\n"


def _presets() -> list[str]:
    """A table of the keys in which the trainer presets differ."""
    presets = {"modern": yaml_files.read("trainer/modern"), **yaml_files.choices("trainer")}
    keys = [
        key
        for key in presets["modern"].values
        if len({str(preset.values.get(key)) for preset in presets.values()}) > 1
    ]
    rows = [
        (_link(key), *(markdown.code(preset.values.get(key)) for preset in presets.values()))
        for key in keys
    ]
    summaries = [
        f"- `trainer={name}`: {markdown.prose(preset.summary)}" for name, preset in presets.items()
    ]
    header = ("key", *(f"`{name}`" for name in presets))
    return ["## Trainer presets", "\n".join(summaries) + "\n", markdown.table(header, rows)]


def _link(key: str) -> str:
    return f"[`{key}`](#{key})"


def _choices(group: str) -> str:
    rows = [
        (f"`{group}={name}`", markdown.prose(file.summary))
        for name, file in yaml_files.choices(group).items()
    ]
    return markdown.table(("choice", "description"), rows)


def _environments() -> list[str]:
    parts = ["## env", "The environment. " + _custom("env"), _names("env", "smax"), _choices("env")]
    for module in components.names("envs"):
        files = {
            n: f for n, f in yaml_files.choices("env").items() if f.values["env.name"] == module
        }
        parts += _component("envs", module, "env.options", files)
        extra = {
            key: (name, value, file.comments.get(key, ""))
            for name, file in files.items()
            for key, value in file.values.items()
            if key.startswith("env.options.kwargs.")
        }
        if extra:
            rows = [
                (f"`env={name}`", f"`{key}`", markdown.code(value), markdown.prose(comment))
                for key, (name, value, comment) in extra.items()
            ]
            parts.append("Arguments passed to the suite's own constructor:\n")
            parts.append(markdown.table(("choice", "key", "default", "meaning"), rows))
    return parts


def _names(group: str, choice: str) -> str:
    """The keys that name components, with the values of the default choice."""
    file = yaml_files.choices(group)[choice]
    rows = [
        (f"{markdown.anchor(key)}`{key}`", markdown.code(value), markdown.prose(file.comments[key]))
        for key, value in file.values.items()
        if ".options" not in key
    ]
    return markdown.table(("key", "default", "meaning"), rows)


def _custom(kind: str) -> str:
    choice = f"`{kind}=custom {kind}.name=my_lab.module +{kind}.options.key=value`"
    return f"Your own module: {choice}.\n"


def _component(
    kind: str, module: str, path: str, files: Mapping[str, yaml_files.File], level: str = "###"
) -> list[str]:
    """Heading and options of one component; comments are those of the files that choose it."""
    model = components.find(kind, module).Config
    comments = {key: text for file in files.values() for key, text in file.comments.items()}
    used = ", ".join(f"`{name}`" for name in files)
    title = f"{level} {path.removesuffix('.options')}.name={module}"
    text = f"Chosen by {used}.\n" if used != f"`{module}`" else ""
    if not model.model_fields:
        return [title, text, "It has no options.\n"]
    return [
        title,
        text,
        option_table(
            path, model, comments, defaults(model, path, files), anchor=f"{kind}.{module}"
        ),
    ]


def defaults(
    model: type[config.Model], path: str, files: Mapping[str, yaml_files.File]
) -> dict[str, Any]:
    """The model's defaults; for required keys, the values of the first file that lists them."""
    listed = {
        key.removeprefix(f"{path}."): value
        for file in reversed(files.values())
        for key, value in file.values.items()
        if key.startswith(f"{path}.")
    }
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    return model.model_validate({name: listed[name] for name in required}).model_dump(mode="json")


def _agents() -> list[str]:
    parts = ["## agent", "The network that maps observations to utilities. " + _custom("agent")]
    parts += [_names("agent", "gru"), _choices("agent")]
    for module in components.names("agents"):
        files = {module: yaml_files.choices("agent")[module]}
        parts += _component("agents", module, "agent.options", files)
    return parts


def _algorithms() -> list[str]:
    """Algorithms with their coefficients, then mixers."""
    parts = [
        "## algo",
        "An algorithm and its mixer, if any ([algorithms](../algorithms/index.md)).",
    ]
    parts += [_names("algo", "qmix"), _choices("algo")]
    for kind, path, key in (
        ("algorithms", "algo", "algorithm"),
        ("mixers", "algo.mixer", "name"),
    ):
        for module in components.names(kind):
            files = {
                name: file
                for name, file in yaml_files.choices("algo").items()
                if file.values.get(f"{path}.{key}") == module
            }
            parts += _component(kind, module, f"{path}.options", files)
            coefficients = getattr(components.find(kind, module), "Coefficients", None)
            if coefficients is not None:
                comments = {
                    key: text for file in files.values() for key, text in file.comments.items()
                }
                values = coefficients().model_dump(mode="json")
                table = option_table(
                    "hparams.algo", coefficients, comments, values, f"coefficients.{module}"
                )
                parts += ["Coefficients:", table]
    return parts


def _loggers() -> list[str]:
    """The options of each logger."""
    parts = [
        "## logger (group)",
        "Several: `logger=[tensorboard,wandb]` ([loggers](../loggers.md)).\n",
    ]
    parts += [
        _custom("logger.custom").replace("logger.custom=custom", "logger=custom"),
        _choices("logger"),
    ]
    for name, file in yaml_files.choices("logger").items():
        model = components.find("loggers", name).Config
        values = model().model_dump(mode="json")
        parts += [
            f"### logger={name}",
            option_table(f"logger.{name}", model, file.comments, values),
        ]
    return parts


def _experiments() -> list[str]:
    parts = [
        "## experiment",
        "An environment with settings tuned for it: all that differs from the presets above.\n",
        _choices("experiment"),
    ]
    for group, title in (
        ("experiment_algo", "With one algorithm"),
        ("experiment_trainer", "With one trainer preset"),
    ):
        rows = [
            (f"`{name}`", markdown.prose(file.summary))
            for name, file in yaml_files.choices(group).items()
        ]
        parts += [f"### {title}", "Applied automatically when both are chosen.\n"]
        parts.append(markdown.table(("`experiment`\\_`choice`", "settings"), rows))
    return parts


def _others() -> list[str]:
    """Groups that have no section above."""
    described = {"env", "agent", "algo", "trainer", "experiment", "logger"}
    others = [group for group in composition.choices() if group not in described]
    return [part for group in others for part in (f"## {group} (group)", _choices(group))]


def _hydra() -> list[str]:
    """Folders, launchers and the sweeper."""
    root = yaml_files.read("config")
    folders = [
        (f"`{key}`", markdown.code(value), markdown.prose(root.comments[key]))
        for key, value in root.values.items()
        if key.startswith("hydra.")
    ]
    parts = ["## hydra", "Run directories, launchers and the sweeper: how jobs are run.\n"]
    parts.append(markdown.table(("key", "default", "meaning"), folders))
    for group, name, model in _HYDRA:
        file = yaml_files.read(f"hydra/{group}/{name}")
        parts += [f"### hydra/{group}={name}", markdown.prose(file.summary) + "\n"]
        schema = model.model_json_schema()
        rows = [
            (
                f"`{key}`",
                markdown.code(value),
                _allowed(schema["properties"][leaf], schema),
                markdown.prose(file.comments[key]),
            )
            for key, value in file.values.items()
            for leaf in [key.rpartition(".")[2]]
        ]
        parts.append(markdown.table(_HEADER, rows))
    return parts
