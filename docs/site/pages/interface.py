"""The reference of Python names: signatures from the source, text from the docstrings."""

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
      shown: as users write it.
      anchor: the fragment that links to it.
      node: its definition.
    """

    shown: str
    anchor: str
    node: ast.ClassDef | ast.FunctionDef


def public() -> str:
    """`qmix_jax`: everything in `__all__`."""
    names = [_public(name) for name in qmix_jax.__all__ if not name.startswith("__")]
    functions = [name for name in names if isinstance(name.node, ast.FunctionDef)]
    classes = [name for name in names if isinstance(name.node, ast.ClassDef)]
    return _page((("Functions", functions), ("Classes and errors", classes)))


def contracts() -> str:
    """What components of one's own are written against."""
    return _page([(title, _members(module)) for title, module in _CONTRACTS])


def numerics() -> str:
    """`qmix_jax.core`: targets, values, exploration, masks."""
    return _page([(f"core.{name}", _members(f"qmix_jax.core.{name}")) for name in _NUMERICS])


def _page(groups: Sequence[tuple[str, Sequence[Name]]]) -> str:
    parts = []
    for title, names in groups:
        parts.append(f"## {title}")
        parts += [_entry(name) for name in names]
    every = [name for _, names in groups for name in names]
    return _linked("\n\n".join(part.strip() for part in parts) + "\n", every)


def _linked(page: str, names: Sequence[Name]) -> str:
    """Classes, and names with their package, become links; headings and signatures do not."""
    anchors = {name.shown: name.anchor for name in names}
    every = "|".join(map(re.escape, anchors))
    classes = "|".join(re.escape(name) for name in anchors if name[0].isupper())
    mention = re.compile(rf"`(?:qmix_jax\.({every})|({classes or every}))`")
    parts = re.split(r"(^```.*?^```$|^#[^\n]*$)", page, flags=re.DOTALL | re.MULTILINE)

    def link(match: re.Match[str]) -> str:
        return f"[{match[0]}](#{anchors[match[1] or match[2]]})"

    return "".join(part if i % 2 else mention.sub(link, part) for i, part in enumerate(parts))


def _public(name: str) -> Name:
    """A name of `__all__`, which may be another one at home (`load_config` is `config.load`)."""
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
    parts = [
        f"### `{name.shown}` {{ #{name.anchor} data-toc-label='{name.shown}' }}",
        _signature(name),
    ]
    parts.append(markdown.paragraphs(docstring.text))
    for heading in ("Args", "Attributes"):
        if heading in docstring.sections:
            rows = [
                (", ".join(f"`{one}`" for one in named.split(", ")), markdown.prose(text))
                for named, text in docstrings.items(docstring.sections[heading])
            ]
            title = {"Args": "argument", "Attributes": "attribute"}[heading]
            parts.append(markdown.table((title, "meaning"), rows))
    for heading in ("Returns", "Raises", "Reference", "Deviation"):
        if heading in docstring.sections:
            parts.append(_section(heading, docstring.sections[heading]))
    if isinstance(name.node, ast.ClassDef):
        parts += _methods(name.node)
    return "\n\n".join(part for part in parts if part)


def _section(heading: str, text: str) -> str:
    found = docstrings.items(text) if heading == "Raises" else [("", text)]
    if all(named for named, _ in found):
        lines = [f"- `{named}`: {markdown.prose(said)}" for named, said in found]
        return f"**{heading}**\n\n" + "\n".join(lines)
    return f"**{heading}** " + markdown.prose(" ".join(text.split()))


def _methods(node: ast.ClassDef) -> list[str]:
    """Documented public methods, briefly."""
    found = [
        child
        for child in node.body
        if isinstance(child, ast.FunctionDef)
        and not child.name.startswith("_")
        and ast.get_docstring(child)
    ]
    lines = [f"- `.{child.name}{_call(child)}`: {_flat(child)}" for child in found]
    return ["\n".join(lines)] if lines else []


def _flat(node: ast.FunctionDef) -> str:
    text = docstrings.parse(ast.get_docstring(node)).text
    prose = (part for part in text.split("\n\n") if not part.startswith(" "))
    return markdown.prose(" ".join(" ".join(prose).split()))


def _call(node: ast.FunctionDef) -> str:
    if any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list):
        return ""
    names = [argument.arg for argument in node.args.args if argument.arg != "self"]
    return f"({', '.join(names)})"


def _signature(name: Name) -> str:
    if isinstance(name.node, ast.FunctionDef):
        return _fenced(name.shown, _arguments(name.node.args), name.node.returns)
    if _is_exception(name.node) or _is_model(name.node):
        return ""
    fields = [
        child
        for child in name.node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    ]
    texts = [ast.unparse(child) for child in fields if not child.target.id.startswith("_")]
    return _fenced(name.shown, texts, None)


def _is_exception(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("Error") for base in node.bases)


def _is_model(node: ast.ClassDef) -> bool:
    """A configuration model; the configuration reference has its keys."""
    return any(ast.unparse(base).endswith("Model") for base in node.bases)


def _fenced(shown: str, arguments: Sequence[str], returns: ast.expr | None) -> str:
    arrow = f" -> {ast.unparse(returns)}" if returns is not None else ""
    line = f"{shown}({', '.join(arguments)}){arrow}"
    if len(line) > _WIDTH:
        body = "".join(f"    {argument},\n" for argument in arguments)
        line = f"{shown}(\n{body}){arrow}"
    return f"```python\n{line}\n```"


def _arguments(args: ast.arguments) -> list[str]:
    """Each argument with annotation and default, and `*` where keywords begin."""
    positional = [*args.posonlyargs, *args.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    texts = [
        _argument(one, default)
        for one, default in zip(positional, missing + args.defaults, strict=True)
    ]
    if args.vararg:
        texts.append(f"*{_argument(args.vararg, None)}")
    elif args.kwonlyargs:
        texts.append("*")
    texts += [
        _argument(one, default)
        for one, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return texts + ([f"**{_argument(args.kwarg, None)}"] if args.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    if default is not None:
        text += f" = {ast.unparse(default)}" if argument.annotation else f"={ast.unparse(default)}"
    return text
