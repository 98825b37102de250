"""The reference of Python names: signatures from the source, texts from the docstrings."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import qmix_jax
from pages import docstrings, markdown

_CONTRACTS = (
    ("Shared records", "qmix_jax.types"),
    ("Environments", "qmix_jax.envs.base"),
    ("Agents", "qmix_jax.agents.base"),
    ("Mixers", "qmix_jax.mixers.base"),
    ("Critics", "qmix_jax.critics.base"),
    ("Algorithms", "qmix_jax.algorithms.base"),
    ("Learning", "qmix_jax.learner"),
    ("Finding components", "qmix_jax.components"),
)
_NUMERICS = ("returns", "qvalues", "exploration", "schedules", "masked", "dueling")
_WIDTH = 80


class Name(NamedTuple):
    """A documented name.

    Attributes:
      title: as users write it.
      anchor: the fragment that links to it.
      node: its definition.
    """

    title: str
    anchor: str
    node: ast.ClassDef | ast.FunctionDef


def public() -> str:
    """`qmix_jax`: everything in `__all__`."""
    names = [_public(name) for name in qmix_jax.__all__ if not name.startswith("__")]
    functions = [name for name in names if isinstance(name.node, ast.FunctionDef)]
    classes = [name for name in names if isinstance(name.node, ast.ClassDef)]
    return _page((("Functions", functions), ("Classes and errors", classes)))


def contracts() -> str:
    """The records and bundles that components are made of."""
    return _page([(title, _members(module)) for title, module in _CONTRACTS])


def numerics() -> str:
    """`qmix_jax.core`: targets, values, exploration, masks."""
    return _page([(f"core.{name}", _members(f"qmix_jax.core.{name}")) for name in _NUMERICS])


def _page(groups: Sequence[tuple[str, Sequence[Name]]]) -> str:
    parts = []
    for title, names in groups:
        parts.append(f"## {title}")
        parts += [_entry(name) for name in names]
    page = "\n\n".join(part.strip() for part in parts) + "\n"
    return _linked(page, [name for _, names in groups for name in names])


def _linked(page: str, names: Sequence[Name]) -> str:
    """Links mentions of classes and of `qmix_jax.NAME`, except in headings and signatures."""
    anchors = {name.title: name.anchor for name in names}
    alternatives = "|".join(map(re.escape, anchors))
    classes = "|".join(re.escape(name) for name in anchors if name[0].isupper())
    mention = re.compile(rf"`(?:qmix_jax\.({alternatives})|({classes or alternatives}))`")
    parts = re.split(r"(^```.*?^```$|^#[^\n]*$)", page, flags=re.DOTALL | re.MULTILINE)

    def link(match: re.Match[str]) -> str:
        return f"[{match[0]}](#{anchors[match[1] or match[2]]})"

    return "".join(part if i % 2 else mention.sub(link, part) for i, part in enumerate(parts))


def _public(name: str) -> Name:
    """A name of `__all__`; its module may use another one (`load_config` is `config.load`)."""
    value = getattr(qmix_jax, name)
    module = importlib.import_module(value.__module__)
    return Name(name, name, _definitions(module)[value.__name__])


def _members(module_name: str) -> list[Name]:
    module = importlib.import_module(module_name)
    short = module_name.removeprefix("qmix_jax.").removesuffix(".base")
    return [
        Name(name, f"{short}.{name}", node)
        for name, node in _definitions(module).items()
        if not name.startswith("_") and ast.get_docstring(node)
    ]


@functools.cache
def _definitions(module: ModuleType) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    source = pathlib.Path(inspect.getfile(module)).read_text(encoding="utf-8")
    body = ast.parse(source).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _entry(name: Name) -> str:
    """Heading, signature, text, tables."""
    docstring = docstrings.parse(ast.get_docstring(name.node))
    target = markdown.anchor(name.anchor) if name.anchor != name.title.lower() else ""
    parts = [f"### {target}`{name.title}`", _signature(name)]
    parts.append(markdown.paragraphs(docstring.text))
    for heading in ("Args", "Attributes"):
        if heading in docstring.sections:
            rows = [
                (", ".join(f"`{item}`" for item in items.split(", ")), markdown.prose(text))
                for items, text in docstrings.items(docstring.sections[heading])
            ]
            title = {"Args": "argument", "Attributes": "attribute"}[heading]
            parts.append(markdown.table((title, "meaning"), rows))
    for heading in ("Returns", "Raises", "Reference", "Deviation"):
        if heading in docstring.sections:
            parts.append(_section(heading, docstring.sections[heading]))
    if isinstance(name.node, ast.ClassDef):
        parts += _methods(name.node)
    return "\n\n".join(part.strip() for part in parts if part)


def _section(heading: str, text: str) -> str:
    items = docstrings.items(text) if heading == "Raises" else [("", text)]
    if all(error for error, _ in items):
        errors = [", ".join(f"`{name}`" for name in names.split(", ")) for names, _ in items]
        causes = [markdown.prose(cause) for _, cause in items]
        lines = [f"- {names}: {cause}" for names, cause in zip(errors, causes, strict=True)]
        return f"**{heading}**\n\n" + "\n".join(lines)
    return f"**{heading}** " + markdown.prose(" ".join(text.split()))


def _methods(node: ast.ClassDef) -> list[str]:
    """A line per documented public method."""
    methods = [
        child
        for child in node.body
        if isinstance(child, ast.FunctionDef)
        and not child.name.startswith("_")
        and ast.get_docstring(child)
    ]
    lines = [f"- `.{child.name}{_call(child)}`: {_flat(child)}" for child in methods]
    return ["\n".join(lines)] if lines else []


def _flat(node: ast.FunctionDef) -> str:
    text = docstrings.parse(ast.get_docstring(node)).text
    prose = (part for part in text.split("\n\n") if not part.startswith(" "))
    return markdown.prose(" ".join(" ".join(prose).split()))


def _call(node: ast.FunctionDef) -> str:
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return ""
    names = [argument.arg for argument in node.args.args if argument.arg != "self"]
    return f"({', '.join(names)})"


def _signature(name: Name) -> str:
    if isinstance(name.node, ast.FunctionDef):
        return _fenced(name.title, _arguments(name.node.args), name.node.returns)
    if _is_exception(name.node) or _is_model(name.node):
        return ""
    fields = [
        child
        for child in name.node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    ]
    texts = [ast.unparse(child) for child in fields if not child.target.id.startswith("_")]
    return _fenced(name.title, texts, None)


def _is_exception(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("Error") for base in node.bases)


def _is_model(node: ast.ClassDef) -> bool:
    """Whether it is a configuration model, whose keys are in the configuration reference."""
    return any(ast.unparse(base).endswith("Model") for base in node.bases)


def _fenced(title: str, arguments: Sequence[str], returns: ast.expr | None) -> str:
    arrow = f" -> {ast.unparse(returns)}" if returns is not None else ""
    line = f"{title}({', '.join(arguments)}){arrow}"
    if len(line) > _WIDTH:
        body = "".join(f"    {argument},\n" for argument in arguments)
        line = f"{title}(\n{body}){arrow}"
    return f"```py\n{line}\n```"  # not `python`: a signature is no statement


def _arguments(args: ast.arguments) -> list[str]:
    """Each argument with annotation and default, and `*` before keyword-only ones."""
    positional = [*args.posonlyargs, *args.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    texts = [
        _argument(argument, default)
        for argument, default in zip(positional, missing + args.defaults, strict=True)
    ]
    if args.vararg:
        texts.append(f"*{_argument(args.vararg, None)}")
    elif args.kwonlyargs:
        texts.append("*")
    texts += [
        _argument(argument, default)
        for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return texts + ([f"**{_argument(args.kwarg, None)}"] if args.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    if default is not None:
        text += f" = {ast.unparse(default)}" if argument.annotation else f"={ast.unparse(default)}"
    return text
