"""The documentation agrees with the package: generated parts are up to date, references are
complete, links work, and the README's table of algorithms agrees with the code.
"""

import importlib
import itertools
import json
import re
import sys

import pytest
import yaml
from documents import DOCS, PAGES, ROOT, each_text, without_code

import qmix_jax
from qmix_jax.cli import composition, main

ALGORITHMS = [name for name in composition.choices()["algo"] if name != "custom"]


@pytest.fixture(scope="module")
def generate():
    """The script `docs/site/generate.py`."""
    sys.path.insert(0, str(DOCS / "site"))
    try:
        yield importlib.import_module("generate")
    finally:
        sys.path.remove(str(DOCS / "site"))


@pytest.fixture(scope="module")
def pages(generate):
    """The package `docs/site/pages`, which writes the generated parts."""
    return generate.pages


# Generated parts


def test_generated_parts_are_up_to_date(generate, capsys):
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_the_check_names_an_outdated_page(generate, pages, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    block = pages.fill("# A\n\n<!-- generated: algorithm vdn -->\n<!-- end of generated -->\n")
    page.write_text(block.replace("algo=vdn", "algo=vdm"))
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == (
        "error: page.md:6 is outdated; run: python docs/site/generate.py\n"
    )
    assert generate.main([]) == 0
    assert page.read_text() == block


def test_every_generated_part_occurs_once(pages):
    names = [name for path in PAGES for name in pages.names(path.read_text())]
    assert len(names) == len(set(names))
    assert {name for name in names if " " not in name} == set(pages.GENERATED)
    assert {
        name.removeprefix("algorithm ") for name in names if name.startswith("algorithm ")
    } == set(ALGORITHMS)


def test_pages_need_no_build():
    """Icon codes, tabs, admonitions and front matter are Markdown for MkDocs only."""
    for path in PAGES:
        text = without_code(path.read_text())
        assert not re.search(r"^(---$|:\w+-\w+.*:|!!! |\?\?\? |=== )|:material-|\{ ?[#:.]", text), (
            path
        )
        assert len(text.split()) > 40, f"{path.name} is nearly empty"


def test_every_key_is_in_the_configuration_reference(pages):
    text = pages.GENERATED["configuration"]()
    keys = {key for path in composition.directory().rglob("*.yaml") for key in _keys(path)}
    assert len(keys) > 100
    for key in keys:
        # a mapping may be one key, a section may be listed by its keys
        forms = (f"`{key}`", f"`{key}.", f"`{key.rpartition('.')[0]}`")
        assert any(form in text for form in forms), key


def test_a_key_has_type_default_range_and_meaning(pages):
    text = pages.GENERATED["configuration"]()
    (row,) = [line for line in text.splitlines() if line.startswith('| <a id="hparams.gamma"')]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [
        "`0.99`",
        "number, 0&nbsp;to&nbsp;1",
        "discount per env step, 0 to 1",
    ]


@each_text
def test_keys_in_the_text_exist(pages, path):
    """Inline code such as `hparams.gamma` or `trainer.window=null`."""
    reference = pages.GENERATED["configuration"]()
    keys = set(re.findall(r'<a id="((?:[a-z]\w*\.)+\w+)">', reference))
    keys |= set(re.findall(r"`((?:[a-z]\w*\.)+\w+)`", reference)) | {"logger.custom.name"}
    keys |= {key.rpartition(".")[0] for key in keys}
    sections = {key.partition(".")[0] for key in keys} - {"qmix_jax"}
    text = re.sub(r"<!-- generated.*?<!-- end|```.*?```", "", path.read_text(), flags=re.DOTALL)
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    mentions = re.findall(r"(?<!\S)((?:[a-z]\w*\.)+\w+)(?==|\s|$)", code)
    unknown = {key for key in mentions if key.partition(".")[0] in sections} - keys
    assert not unknown, unknown


def test_every_choice_is_in_the_configuration_reference(pages):
    text = pages.GENERATED["configuration"]()
    for group, name in _choices():
        assert f"`{group}={name}`" in text, f"{group}={name}"


@pytest.mark.parametrize("name", ["configuration", "public", "contracts", "numerics"])
def test_anchors_are_unique(pages, name):
    anchors = re.findall(r'<a id="([^"]+)"', pages.GENERATED[name]())
    assert len(anchors) > 10
    assert len(anchors) == len(set(anchors))


def test_every_public_name_is_in_the_interface_reference(pages):
    text = pages.GENERATED["public"]()
    for name in qmix_jax.__all__:
        assert name.startswith("__") or re.search(rf"^### .*`{name}`$", text, re.MULTILINE), name


def test_the_interface_reference_shows_signature_arguments_and_errors(pages):
    entry = pages.GENERATED["public"]().partition("### `train`")[2].partition("\n### ")[0]
    assert "train(\n    cfg: config.ExperimentConfig,\n" in entry
    assert "or [`qmix_jax.load_config`](#load_config). |" in entry
    assert "\n- [`ConfigError`](#ConfigError): " in entry


def test_the_numerics_keep_their_formulas(pages):
    text = pages.GENERATED["numerics"]()
    assert "```text\ny_t = r_t + gamma * (1 - terminated_t) * V_{t+1}\n```" in text


def test_every_command_is_in_the_command_reference(pages):
    text = pages.GENERATED["commands"]()
    for command in main.COMMANDS:
        assert f"usage: qmix-jax {command}" in text, command
    for code in (0, 1, 2, 130):
        assert re.search(rf"\b{code} \w", text.partition("## Exit codes")[2])


def test_every_algorithm_states_its_deviations(pages):
    for name in ALGORITHMS:
        for module, deviation in pages.algorithms.deviations_of(name).items():
            assert deviation, f"{module} does not say `Deviation: ...`"
            page = pages.algorithms.facts(name)
            assert f"- `{module.removeprefix('qmix_jax.')}`: " in page


def test_every_algorithm_has_a_heading_on_its_page(pages):
    for page, names in pages.algorithms.FAMILIES.items():
        text = (DOCS / "algorithms" / f"{page}.md").read_text()
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(names)
    assert sorted(itertools.chain(*pages.algorithms.FAMILIES.values())) == sorted(ALGORITHMS)


# The README


@pytest.mark.parametrize(("group", "others"), [("algo", set()), ("experiment", {"lab"})])
def test_the_readme_lists_every_choice(group, others):
    section = (ROOT / "README.md").read_text().partition("## What it has")[2]
    names = set(re.findall(r"`(\w+)`", section))
    choices = set(composition.choices()[group]) - {"custom"}
    assert choices - names == others


# Navigation, links and pictures


def test_every_page_is_in_the_navigation_once():
    nav = yaml.safe_load((DOCS / "site" / "mkdocs.yml").read_text())["nav"]
    listed = re.findall(r"[\w/]+\.md", json.dumps(nav))
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


@each_text
def test_links_and_pictures_exist(path):
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        destination = (path.parent / file).resolve() if file else path
        assert destination.exists(), f"{path.name}: {target}"
        assert destination.is_relative_to(ROOT), f"{path.name}: {target} leaves the repository"
        if fragment and destination.suffix == ".md":
            assert fragment in _anchors(destination.read_text()), (
                f"{path.name}: no heading for {target}"
            )


def test_pictures_are_small():
    for path in (DOCS / "images").iterdir():
        assert path.stat().st_size < 300_000, path.name


def _anchors(text):
    """Those of the headings, as MkDocs and GitHub make them, and explicit ones."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    plain = (re.sub(r"<[^>]*>|[^\w\s-]", "", heading).strip().lower() for heading in headings)
    explicit = re.findall(r'<a id="([^"]+)"', text)
    return {re.sub(r"\s", "-", heading) for heading in plain} | set(explicit)


def _choices():
    every = composition.choices().items()
    return [(group, name) for group, names in every for name in names if name != "custom"]


def _keys(path):
    """Dotted keys of the values in a YAML file."""
    text = path.read_text()
    section = path.parent.relative_to(composition.directory()).as_posix().replace("/", ".")
    root = "@package _global_" in text or section == "."
    mapping = {k: v for k, v in yaml.safe_load(text).items() if k not in ("defaults", "_target_")}
    return [] if path.stem == "custom" else _leaves(mapping, "" if root else f"{section}.")


def _leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
