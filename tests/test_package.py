"""What importing the package does and does not do."""

import importlib.metadata
import pathlib
import re
import zipfile

import pytest

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import composition

BUILD = "import sys; from hatchling import build; build.build_wheel(sys.argv[1])"
ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("statement", ["import qmix_jax", "from qmix_jax.cli import composition"])
def test_import_is_silent_and_light(run_python, statement):
    check = "import sys; assert not {'jax', 'jaxmarl', 'flax', 'matplotlib'} & set(sys.modules)"
    result = run_python("-c", f"{statement}\n{check}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_python_interface_needs_no_hydra(run_python):
    code = "import qmix_jax, sys; qmix_jax.train; assert 'hydra' not in sys.modules"
    result = run_python("-c", code)
    assert (result.returncode, result.stderr) == (0, "")


def test_loading_a_configuration_starts_no_backend(run_python):
    code = (
        "import qmix_jax, sys; qmix_jax.load_config({})\n"
        "assert 'jaxmarl' not in sys.modules\n"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    result = run_python("-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_all_public_names_resolve():
    for name in qmix_jax.__all__:
        assert getattr(qmix_jax, name) is not None
    assert set(qmix_jax.__all__) <= set(dir(qmix_jax))
    assert qmix_jax.load_config is config.load
    assert qmix_jax.dump_config is config.dump


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = qmix_jax.trian


def test_versions_agree():
    assert re.fullmatch(r"\d+\.\d+\.\d+", qmix_jax.__version__)
    assert f"version: {qmix_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {qmix_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_wheel_has_configs_type_marker_and_report_template(run_python, tmp_path):
    built = run_python("-c", f"import os; os.chdir({str(ROOT)!r})\n{BUILD}", str(tmp_path))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"qmix_jax/py.typed", "qmix_jax/reports/report.html.j2"} <= names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"qmix_jax/{path.relative_to(ROOT)}" in names


def test_configs_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "qmix_jax"
    (package / "cli").mkdir(parents=True)
    monkeypatch.setattr(composition, "__file__", str(package / "cli" / "composition.py"))
    with pytest.raises(config.ConfigError, match="configs: no YAML files beside"):
        composition.directory()
    (package / "configs").mkdir()
    (package / "configs" / "config.yaml").write_text("name: x\n")
    assert composition.directory() == package / "configs"


def test_readme_has_the_test_command():
    readme = (ROOT / "README.md").read_text()
    match = re.search(r"<!-- test-command -->\n```\w*\n(.+)\n", readme)
    assert match is not None
    assert ".venv/bin/pytest -n 2" in match[1]


def test_runtime_dependencies_are_installed():
    project = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert block is not None
    names = re.findall(r'"([A-Za-z0-9_-]+)', block[1])
    assert {"jax", "jaxmarl", "hydra-core", "pydantic"} <= set(names)
    for name in names:
        assert importlib.metadata.version(name)
