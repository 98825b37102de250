"""MkDocs hooks: links into the repository, drawings, formulas, and a check that the built site
needs no network.
"""

import html
import pathlib
import re
from typing import Any

from latex2mathml import converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.pages import Page

_LOG = get_plugin_logger("qmix_jax")

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")
_DRAWING = re.compile(r'<img [^>]*src="[^"]*?images/(\w+\.svg)"[^>]*>')
_FORMULA = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)
_EXTERNAL = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"' >]*"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preload|icon)[^>]*\bhref=[\"']?(?:https?:)?//[^\"' >]*"
)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Hides the sidebars that `extra.hide` names, and resolves links that leave `docs/`."""
    page.meta["hide"] = config.extra["hide"].get(page.file.src_path, [])
    root = pathlib.Path(config.docs_dir).resolve()
    source = page.file.src_path
    here = pathlib.Path(config.docs_dir, source).parent

    def resolve(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        if target.is_relative_to(root):
            return match[0]
        if not target.exists():
            _LOG.warning(f"{source}: link to {match[2]}, which does not exist")
        inside = target.relative_to(root.parent).as_posix()
        return _repository_link(match[1], inside, config)

    return _LINK.sub(resolve, markdown)


def on_page_content(html: str, config: MkDocsConfig, **_: Any) -> str:
    """Inlines drawings, so that they follow the colours of the page, and converts formulas."""

    def drawing(match: re.Match[str]) -> str:
        path = pathlib.Path(config.docs_dir, "images", match[1])
        return f'<div class="drawing">{path.read_text(encoding="utf-8")}</div>'

    return _FORMULA.sub(_formula, _DRAWING.sub(drawing, html))


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Warns of everything that a page would load from the network."""
    for path in sorted(pathlib.Path(config.site_dir).rglob("*.html")):
        for element in _EXTERNAL.findall(path.read_text(encoding="utf-8")):
            _LOG.warning(f"{path.relative_to(config.site_dir)} loads from the network: {element}")


def _repository_link(text: str, inside: str, config: MkDocsConfig) -> str:
    """A link to a file of the repository if `repo_url` is set, else its text alone."""
    if not config.repo_url:
        return text if inside in text else f"{text} (`{inside}`)"
    return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{inside})"


def _formula(match: re.Match[str]) -> str:
    """MathML, which browsers draw without scripts."""
    latex = html.unescape(match[2]).strip()
    display = "block" if match[1] == "div" else "inline"
    for opening, closing in ((r"\[", r"\]"), (r"\(", r"\)")):
        latex = latex.removeprefix(opening).removesuffix(closing)
    return converter.convert(latex, display=display)
