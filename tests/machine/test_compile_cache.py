"""The compile cache: on by default, its folder, and the user's settings."""

import pathlib
import textwrap

import pytest

TRAIN = (
    "-m", "qmix_jax", "train", "experiment=two_step", "seeds=1", "trainer.env_steps=200"
)  # fmt: skip


@pytest.mark.slow
def test_a_second_start_compiles_nothing(run_python, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    folder = tmp_path / "cache" / "qmix_jax"
    assert run_python(*TRAIN).returncode == 0

    def programs():
        """Programs of the population; a busy machine also caches small ones."""
        return {path.name for path in folder.rglob("*run_round*-cache")}

    before = programs()
    assert 2 <= len(before) <= 3, "initialise, train, evaluate: those that take long to compile"
    assert run_python(*TRAIN).returncode == 0
    assert programs() == before, "nothing new"


def test_the_cache_can_be_switched_off(run_python, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    process = run_python(
        "-c",
        textwrap.dedent("""
        import jax
        import qmix_jax
        from qmix_jax.training import launching
        for enabled in ("false", "true"):
            cfg = qmix_jax.compose_config("experiment=two_step", f"compile_cache={enabled}")
            launching.prepare_devices([cfg])
            print(jax.config.jax_compilation_cache_dir)
    """),
    )
    off, on = process.stdout.splitlines()
    assert off == "None" and on.startswith(str(tmp_path / "cache")), process.stderr


def test_a_folder_set_by_the_user_is_used(run_python):
    process = run_python(
        "-c",
        textwrap.dedent("""
        import jax
        from qmix_jax.machine import compile_cache
        jax.config.update("jax_compilation_cache_dir", "mine")
        print(compile_cache.enable(), jax.config.jax_compilation_cache_dir)
    """),
    )
    assert process.stdout == "None mine\n", process.stderr


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(run_python, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    process = run_python(
        "-c",
        textwrap.dedent("""
        import jax
        from qmix_jax.machine import compile_cache
        print(compile_cache.enable())
        print(jax.config.jax_compilation_cache_dir, compile_cache.directory())
    """),
    )
    line, settings = process.stdout.splitlines()
    assert line.startswith("compile cache: off, ") and "cannot be written" in line
    assert settings.startswith("None ") and str(pathlib.Path("qmix_jax", "xla")) in settings
