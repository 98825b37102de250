"""What MkDocs does besides its plugins: generated pages, links into the repository, drawings,
formulas, and a check that the built site needs no network.
"""

import html
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from latex2mathml import converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.pages import Page

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import pages

_LOG = get_plugin_logger("qmix_jax")

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")
_DRAWING = re.compile(r'<img [^>]*src="[^"]*?images/(\w+\.svg)"[^>]*>')
_FORMULA = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)
_EXTERNAL = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"' >]*"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preload|icon)[^>]*\bhref=[\"']?(?:https?:)?//[^\"' >]*"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that the navigation does not list follow at the end of the guides."""
    (guides,) = [entry["Guides"] for entry in config.nav if "Guides" in entry]
    listed = set(_paths(config.nav))
    found = sorted(path.name for path in pathlib.Path(config.docs_dir).glob("*.md"))
    guides.extend(name for name in found if name not in listed)
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Fills in what is generated, and resolves links that leave the documentation."""
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

    return _LINK.sub(resolve, pages.fill(markdown))


def on_page_content(html: str, config: MkDocsConfig, **_: Any) -> str:
    """Puts our drawings into the page, so that they follow its colours, and sets formulas."""

    def drawing(match: re.Match[str]) -> str:
        path = pathlib.Path(config.docs_dir, "images", match[1])
        return f'<div class="drawing">{path.read_text(encoding="utf-8")}</div>'

    return _FORMULA.sub(_formula, _DRAWING.sub(drawing, html))


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Warns of everything that a page would load from elsewhere."""
    for path in sorted(pathlib.Path(config.site_dir).rglob("*.html")):
        for found in _EXTERNAL.findall(path.read_text(encoding="utf-8")):
            _LOG.warning(f"{path.relative_to(config.site_dir)} loads something external: {found}")


def _paths(nav: Any) -> Iterator[str]:
    """Every page of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _paths(entry)


def _repository_link(text: str, inside: str, config: MkDocsConfig) -> str:
    """A link to a file of the repository where `repo_url` is set, otherwise its text alone."""
    if not config.repo_url:
        return text if inside in text else f"{text} (`{inside}`)"
    return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{inside})"


def _formula(match: re.Match[str]) -> str:
    """MathML, which browsers draw by themselves."""
    latex = html.unescape(match[2]).strip()
    display = "block" if match[1] == "div" else "inline"
    for opening, closing in ((r"\[", r"\]"), (r"\(", r"\)")):
        latex = latex.removeprefix(opening).removesuffix(closing)
    return converter.convert(latex, display=display)
