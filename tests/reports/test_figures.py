"""What the figures show and what they leave out."""

import numpy as np
import pytest

from qmix_jax.reports import collect, figures, study, summary

OPTIONS = summary.Options(last=1, resamples=50)


@pytest.fixture
def build(tmp_path):
    def make():
        found = study.build(*collect.collect([tmp_path / "runs"]))
        seen = summary.views(found, OPTIONS)
        return found, seen, figures.short_names(found, summary.order(seen))

    return make


@pytest.fixture
def sweep(make_run, build):
    """Three discounts by two learning rates, the higher the better, two seeds."""
    for i, gamma in enumerate((0.5, 0.9, 0.99)):
        for j, rate in enumerate((1e-4, 1e-2)):
            last = 0.2 * i + 0.1 * j
            schedule = {"start": rate, "end": rate, "steps": 1.0}
            changes = {"hparams.gamma": gamma, "hparams.learning_rate": schedule}
            values = {0: [0.0, last, last], 1: [0.0, last + 0.1, last + 0.1]}
            make_run(f"{gamma}_{rate}", values, changes)
    return build()


def lines(panel):
    return [line for line in panel.get_lines() if len(line.get_xdata())]


def legend(drawing):
    return [text.get_text() for text in drawing.legends[0].get_texts()]


def test_curves_are_interquartile_means_with_a_band(sweep):
    found, _, called = sweep
    drawing = figures.curves(found, called, OPTIONS)
    (panel,) = drawing.get_axes()
    assert panel.get_title(loc="left") == "toy/a"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("env steps", "greedy win rate")
    assert len(lines(panel)) == len(panel.collections) == 6
    np.testing.assert_allclose(lines(panel)[0].get_xdata(), [0, 100, 200])
    np.testing.assert_allclose(lines(panel)[0].get_ydata(), [0.0, 0.55, 0.55])
    assert legend(drawing)[0] == "1. learning_rate=0.01, gamma=0.99"
    styles = {(line.get_color(), line.get_linestyle()) for line in lines(panel)}
    assert len(styles) == 6


def test_no_more_settings_than_asked_for(sweep):
    found, seen, called = sweep
    few = summary.Options(last=1, resamples=50, drawn=2)
    for drawing in (figures.curves(found, called, few), figures.profile(seen, called, few)):
        assert len(lines(drawing.get_axes()[0])) == len(legend(drawing)) == 2
        assert drawing.get_suptitle().endswith("(best 2 of 6 settings)")
    drawing = figures.improvement(seen, called, few)
    assert len(drawing.get_axes()[0].get_yticks()) == 2


def test_ten_settings_look_different():
    assert len({tuple(figures._line(i).values()) for i in range(10)}) == 10


def test_improvement_shows_rows_against_columns(sweep):
    _, seen, called = sweep
    (panel,) = figures.improvement(seen, called, OPTIONS).get_axes()
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in panel.texts}
    assert len(texts) == 30
    best, second, worst = texts[0, 1], texts[1, 0], texts[5, 0]
    assert best.startswith("0.88\n["), "0.5 and 0.6 beat 0.4 and 0.5 but for one tie"
    assert second.startswith("0.12\n[") and worst == "0.00\n[0.00, 0.00]"
    assert panel.get_yticklabels()[0].get_text().startswith("1. learning_rate=0.01")


def test_short_names_are_never_two_keys():
    keys = ("algo.name", "hparams.gamma", "a.size", "b.size")
    values = {"algo.name": "vdn", "hparams.gamma": "0.9", "a.size": "1", "b.size": "2"}
    found = study.Study((), {"x": values, "y": {}}, keys, (), ())
    assert figures.short_names(found, ["y", "x"]) == {
        "y": "1. y",
        "x": "2. algo=vdn, gamma=0.9, a.size=1, b.size=2",
    }


def test_one_setting_has_nothing_to_compare(make_run, build):
    make_run("0", {0: [0.1, 0.2], 1: [0.2, 0.3]})
    found, seen, called = build()
    assert figures.improvement(seen, called, OPTIONS) is None
    assert figures.png(figures.curves(found, called, OPTIONS))[:4] == b"\x89PNG"
    assert figures.png(figures.profile(seen, called, OPTIONS))[:4] == b"\x89PNG"


def test_sensitivity_pools_the_other_keys(sweep):
    found, seen, _ = sweep
    (panel,) = figures.sensitivity(found, seen, "hparams.gamma", OPTIONS).get_axes()
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0.5", "0.9", "0.99"]
    assert panel.get_xscale() == "linear"
    middle = lines(panel)[-1]
    assert middle.get_linestyle() == "-"
    np.testing.assert_allclose(middle.get_xdata(), [0.5, 0.9, 0.99])
    np.testing.assert_allclose(middle.get_ydata(), [0.1, 0.3, 0.5])  # of 0, .1, .1, .2: .1
    thin = [line for line in lines(panel) if line.get_linewidth() == 0.9]
    assert len(thin) == 2, "one per learning rate"
    (panel,) = figures.sensitivity(found, seen, "hparams.learning_rate", OPTIONS).get_axes()
    assert panel.get_xscale() == "log"


def test_sensitivity_to_names(make_run, build):
    for name in ("qmix", "vdn"):
        make_run(name, {0: [0.3], 1: [0.4]}, {"algo.name": name})
    found, seen, _ = build()
    (panel,) = figures.sensitivity(found, seen, "algo.name", OPTIONS).get_axes()
    assert [text.get_text() for text in panel.get_xticklabels()] == ["qmix", "vdn"]
    assert lines(panel)[-1].get_linestyle() == "None", "names have no order"


def test_sensitivity_needs_two_values(make_run, build):
    make_run("0", {0: [0.3]}, {"algo.mixer": None, "algo.name": "iql"})
    make_run("1", {0: [0.4]}, {"hparams.gamma": 0.5})
    make_run("2", {0: [0.4]}, {"algo.mixer.options.embed_dim": 4})
    found, seen, _ = build()
    assert "algo.mixer.options.embed_dim" in found.keys
    assert figures.sensitivity(found, seen, "algo.mixer.options.embed_dim", OPTIONS) is not None
    only = {label: {"x": "1"} for label in list(found.settings)[:1]}
    one = study.Study(found.tasks, {**found.settings, **only}, found.keys, (), ())
    assert figures.sensitivity(one, seen, "x", OPTIONS) is None


def test_a_panel_per_task_and_many_values(make_run, build):
    for i in range(30):
        for env in ("toy/a", "toy/b", "other"):
            make_run(f"{env}{i}", {0: [0.0, i / 30]}, {"hparams.gamma": i / 30}, env=env)
    found, seen, called = build()
    panels = figures.curves(found, called, OPTIONS).get_axes()
    assert [panel.get_title(loc="left") for panel in panels] == ["other", "toy/a", "toy/b"]
    drawing = figures.sensitivity(found, seen, "hparams.gamma", OPTIONS)
    assert len(drawing.get_axes()) == 4, "the tasks, and all of them"
    assert len(drawing.get_axes()[0].get_xticks()) < 15
    assert lines(drawing.get_axes()[0])[-1].get_linestyle() == "None"


def test_dollars_are_text(make_run, build):
    make_run("0", {0: [0.3]}, {"algo.name": "a$^$b"})
    make_run("1", {0: [0.3]})
    found, seen, called = build()
    for drawing in (
        figures.curves(found, called, OPTIONS),
        figures.improvement(seen, called, OPTIONS),
        figures.sensitivity(found, seen, "algo.name", OPTIONS),
    ):
        assert figures.png(drawing)
