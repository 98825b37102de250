"""The documentation agrees with the package: references are complete, links lead somewhere,
commands are accepted, and the README's table of algorithms says what the code says.
"""

import importlib
import itertools
import pathlib
import re
import shlex
import sys

import pytest
import yaml

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import composition, jobs, main, resume

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if DOCS / "site" not in path.parents)
TEXTS = [ROOT / "README.md", *PAGES]
ALGORITHMS = [name for name in composition.choices()["algo"] if name != "custom"]

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.fixture(scope="module")
def pages():
    """The package `docs/site/pages`, which makes what is generated."""
    sys.path.insert(0, str(DOCS / "site"))
    try:
        yield importlib.import_module("pages")
    finally:
        sys.path.remove(str(DOCS / "site"))


# What is generated


def test_every_generated_part_has_one_place(pages):
    placed = [mark for path in PAGES for mark in pages.marks(path.read_text())]
    assert len(placed) == len(set(placed))
    names = {kind: {name for k, name in placed if k == kind} for kind, _ in placed}
    assert names["generated"] == set(pages.GENERATED)
    assert names["facts"] == set(ALGORITHMS)


def test_every_key_is_in_the_configuration_reference(pages):
    text = pages.GENERATED["configuration"]()
    keys = {key for path in composition.directory().rglob("*.yaml") for key in _keys(path)}
    assert len(keys) > 100
    for key in keys:
        # a mapping counts where it is one key, a section where its keys are
        forms = (f"`{key}`", f"`{key}.", f"`{key.rpartition('.')[0]}`")
        assert any(form in text for form in forms), key


def test_a_key_has_type_default_range_and_meaning(pages):
    text = pages.GENERATED["configuration"]()
    (row,) = [line for line in text.splitlines() if line.startswith("| `hparams.gamma`")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [
        "`0.99`",
        "number, 0&nbsp;to&nbsp;1",
        "discount per env step, 0 to 1",
    ]


def test_every_choice_is_in_the_configuration_reference(pages):
    text = pages.GENERATED["configuration"]()
    for group, name in _choices():
        assert f"`{group}={name}`" in text, f"{group}={name}"


@pytest.mark.parametrize("name", ["configuration", "public", "contracts", "numerics"])
def test_anchors_are_unique(pages, name):
    anchors = re.findall(r"\{ #(\S+)", pages.GENERATED[name]())
    assert len(anchors) > 10
    assert len(anchors) == len(set(anchors))


def test_every_public_name_is_in_the_interface_reference(pages):
    text = pages.GENERATED["public"]()
    for name in qmix_jax.__all__:
        assert name.startswith("__") or f"### `{name}`" in text, name


def test_the_interface_reference_shows_signature_arguments_and_errors(pages):
    entry = pages.GENERATED["public"]().partition("### `train`")[2].partition("\n### ")[0]
    assert "train(\n    cfg: config.ExperimentConfig,\n" in entry
    assert "| `cfg` | from [`qmix_jax.load_config`](#load_config). |" in entry
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


# The README's table


def _table_rows():
    """Algorithms of a row -> its last cell."""
    section = (ROOT / "README.md").read_text().partition("## Algorithms")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {
        tuple(re.findall(r"`(\w+)`", row[0])): row[-1].strip()
        for row in rows
        if "`algo`" not in row[0]
    }


def test_the_readme_lists_every_algorithm_once():
    listed = list(itertools.chain(*_table_rows()))
    assert sorted(listed) == sorted(ALGORITHMS)


def test_the_readme_deviates_where_the_code_does(pages):
    """What all algorithms share (`td`, `iql`) is a sentence below the table."""
    for names, cell in _table_rows().items():
        own = {
            module: text
            for name in names
            for module, text in pages.algorithms.deviations_of(name).items()
            if not module.endswith((".td", ".iql"))
        }
        deviates = any(not text.startswith("none") for text in own.values())
        assert deviates == (cell != "as all, below"), f"{names}: {cell!r}, but the code: {own}"


def test_the_readme_uses_the_words_of_the_code(pages):
    """Each longer word of a cell is in the docstrings or comments of that row's algorithms."""
    for names, cell in _table_rows().items():
        if cell == "as all, below":
            continue
        said = " ".join(pages.algorithms.facts(name) for name in names).lower()
        words = re.findall(r"[a-z]{5,}", cell.lower())
        strange = [word for word in words if word.rstrip("s") not in said]
        assert not strange, f"{names}: {cell!r} speaks of {strange}"


# Links and pictures


@each_text
def test_links_and_pictures_exist(pages, path):
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", _without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name}: {target}"
        assert found.is_relative_to(ROOT), f"{path.name}: {target} leaves the repository"
        if fragment and found.suffix == ".md":
            assert fragment in _anchors(pages.fill(found.read_text())), (
                f"{path.name}: no heading for {target}"
            )


def test_pictures_are_small():
    for path in (DOCS / "images").iterdir():
        assert path.stat().st_size < 300_000, path.name


def _anchors(text):
    """Of the headings, as MkDocs and GitHub make them, and those that are written out."""
    headings = re.findall(r"^#+ (.+)$", _without_code(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain} | set(re.findall(r"\{ #(\S+)", text))


def _without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


# Commands


def _commands(path):
    """Arguments of each `qmix-jax ...` in the shell blocks of a page."""
    text = path.read_text()
    found = []
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            found += [words for words in map(_ours, _calls(line)) if not _placeholder(words)]
    return found


def _calls(line):
    """Arguments of each call in a line of shell; a quotation over several lines is left alone."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return
    for both, part in itertools.groupby(words, lambda word: word == "&&"):
        own = [] if both else list(part)
        names = [
            i for i, word in enumerate(own) if word == "qmix-jax" or word.endswith("/qmix-jax")
        ]
        if names:
            yield own[names[0] + 1 :]


_OURS = {"my_lab.weighted": "toys.weighted", "my_lab.hysteretic": "toys.hysteretic"}
"""Module that a page builds -> the same module here."""


def _ours(arguments):
    return [re.sub("|".join(_OURS), lambda match: _OURS[match[0]], word) for word in arguments]


def _placeholder(arguments):
    return any(re.search(r"my_|<|\.\.\.|\$", argument) for argument in arguments)


@pytest.mark.slow
@each_text
def test_commands_are_accepted(path):
    """Training commands compose and load; of others, command and flags are known."""
    for command, *rest in _commands(path):
        assert command in main.COMMANDS or command.startswith("-"), f"{path.name}: {command}"
        if command in main.COMMANDS and not {"-h", "--help"} & set(rest):
            _check(path, command, rest)


def _check(path, command, rest):
    try:
        options = main.COMMANDS[command].parser().parse_intermixed_args(rest)
        if command not in ("train", "plan", "baseline"):
            return
        resumed = [text for text in options.overrides if re.match("resume=(?!auto)", text)]
        options.overrides = [
            text for text in options.overrides if not re.match("resume=(?!auto)|policy=", text)
        ]
        if resumed:  # the directory is the reader's
            resume.changes(options.overrides)
        else:
            jobs.configs(options)
    except config.ConfigError as error:
        pytest.fail(f"{path.name}: qmix-jax {command} {shlex.join(rest)}: {error}")


@each_text
def test_python_is_valid(path):
    for code in _python(path):
        compile(code, str(path), "exec")


def test_the_check_of_ones_own_mixer_runs(monkeypatch):
    import toys.weighted

    monkeypatch.setitem(sys.modules, "my_lab", toys)
    monkeypatch.setitem(sys.modules, "my_lab.weighted", toys.weighted)
    (code,) = [code for code in _python(DOCS / "custom_mixer.md") if "assert" in code]
    exec(compile(code, "custom_mixer.md", "exec"), {})


@pytest.mark.slow
def test_the_loops_of_the_page_on_steps_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop, callback = (
        code.replace("20_000", "4_000").replace("10_000", "2_000")
        for code in _python(DOCS / "stepwise.md")
    )
    found = {}
    exec(compile(loop, "stepwise.md", "exec"), found)
    assert len(loop.splitlines()) < 30
    assert found["result"].interrupted == (
        found["session"].update < found["session"].plan.n_updates
    )
    assert found["result"].metrics["update"].max() == found["session"].update > 0
    exec(compile(callback, "stepwise.md", "exec"), {})
    assert qmix_jax.load_run("runs/watched").metrics["env_steps"].max() > 0


def _python(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_commands_are_found():
    counts = {path.name: len(_commands(path)) for path in TEXTS}
    assert counts["README.md"] > 10
    assert counts["training.md"] > 10
    assert counts["custom_mixer.md"] == 3


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
