"""Contents of the figures of a report."""

import numpy as np
import pytest

from qmix_jax.reports import collect, figures, study, summary

OPTIONS = summary.Options(last=1, resamples=50)


@pytest.fixture
def build(tmp_path):
    def make():
        data = study.build(*collect.collect([tmp_path / "runs"]))
        rankings = summary.rankings(data, OPTIONS)
        return data, rankings, figures.numbered_short(data, summary.order(rankings))

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


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_show_interquartile_means_and_intervals(sweep):
    data, _, names = sweep
    figure = figures.curves(data, names, OPTIONS)
    (panel,) = figure.get_axes()
    assert panel.get_title(loc="left") == "toy/a"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("env steps", "greedy win rate")
    assert len(lines(panel)) == len(panel.collections) == 6
    np.testing.assert_allclose(lines(panel)[0].get_xdata(), [0, 100, 200])
    np.testing.assert_allclose(lines(panel)[0].get_ydata(), [0.0, 0.55, 0.55])
    assert legend(figure)[0] == "1. learning_rate=0.01, gamma=0.99"
    styles = {(line.get_color(), line.get_linestyle()) for line in lines(panel)}
    assert len(styles) == 6


def test_figures_show_the_top_settings_only(sweep):
    data, rankings, names = sweep
    few = summary.Options(last=1, resamples=50, top=2)
    for figure in (figures.curves(data, names, few), figures.profile(rankings, names, few)):
        assert len(lines(figure.get_axes()[0])) == len(legend(figure)) == 2
        assert figure.get_suptitle().endswith("(best 2 of 6 settings)")
    figure = figures.improvement(rankings, names, few)
    assert len(figure.get_axes()[0].get_yticks()) == 2


def test_ten_settings_have_different_line_styles():
    assert len({tuple(figures._line(i).values()) for i in range(10)}) == 10


def test_improvement_compares_rows_with_columns(sweep):
    _, rankings, names = sweep
    (panel,) = figures.improvement(rankings, names, OPTIONS).get_axes()
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in panel.texts}
    assert len(texts) == 30
    best, second, worst = texts[0, 1], texts[1, 0], texts[5, 0]
    assert best.startswith("0.88\n["), "0.5 and 0.6 beat 0.4 and 0.5 but for one tie"
    assert second.startswith("0.12\n[") and worst == "0.00\n[0.00, 0.00]"
    assert panel.get_yticklabels()[0].get_text().startswith("1. learning_rate=0.01")


def test_short_names_are_unambiguous():
    keys = ("algo.name", "hparams.gamma", "a.size", "b.size")
    values = {"algo.name": "vdn", "hparams.gamma": "0.9", "a.size": "1", "b.size": "2"}
    data = study.Study((), {"x": values, "y": {}}, keys, (), ())
    assert figures.numbered_short(data, ["y", "x"]) == {
        "y": "1. y",
        "x": "2. algo=vdn, gamma=0.9, a.size=1, b.size=2",
    }


def test_a_single_setting_has_no_improvement_figure(make_run, build):
    make_run("0", {0: [0.1, 0.2], 1: [0.2, 0.3]})
    data, rankings, names = build()
    assert figures.improvement(rankings, names, OPTIONS) is None
    assert figures.png(figures.curves(data, names, OPTIONS))[:4] == b"\x89PNG"
    assert figures.png(figures.profile(rankings, names, OPTIONS))[:4] == b"\x89PNG"


def test_sensitivity_pools_the_other_keys(sweep):
    data, rankings, _ = sweep
    (panel,) = figures.sensitivity(data, rankings, "hparams.gamma", OPTIONS).get_axes()
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0.5", "0.9", "0.99"]
    assert panel.get_xscale() == "linear"
    pooled = lines(panel)[-1]
    assert pooled.get_linestyle() == "-"
    np.testing.assert_allclose(pooled.get_xdata(), [0.5, 0.9, 0.99])
    np.testing.assert_allclose(pooled.get_ydata(), [0.1, 0.3, 0.5])  # of 0, .1, .1, .2: .1
    thin = [line for line in lines(panel) if line.get_linewidth() == 0.9]
    assert len(thin) == 2, "one per learning rate"
    (panel,) = figures.sensitivity(data, rankings, "hparams.learning_rate", OPTIONS).get_axes()
    assert panel.get_xscale() == "log"


def test_sensitivity_to_a_component_name_has_no_line(make_run, build):
    for name in ("qmix", "vdn"):
        make_run(name, {0: [0.3], 1: [0.4]}, {"algo.name": name})
    data, rankings, _ = build()
    (panel,) = figures.sensitivity(data, rankings, "algo.name", OPTIONS).get_axes()
    assert [text.get_text() for text in panel.get_xticklabels()] == ["qmix", "vdn"]
    assert lines(panel)[-1].get_linestyle() == "None", "names have no order"


def test_sensitivity_needs_two_values(make_run, build):
    make_run("0", {0: [0.3]}, {"algo.mixer": None, "algo.name": "iql"})
    make_run("1", {0: [0.4]}, {"hparams.gamma": 0.5})
    make_run("2", {0: [0.4]}, {"algo.mixer.options.embed_dim": 4})
    data, rankings, _ = build()
    assert "algo.mixer.options.embed_dim" in data.keys
    assert figures.sensitivity(data, rankings, "algo.mixer.options.embed_dim", OPTIONS) is not None
    only = {label: {"x": "1"} for label in list(data.settings)[:1]}
    single = study.Study(data.tasks, {**data.settings, **only}, data.keys, (), ())
    assert figures.sensitivity(single, rankings, "x", OPTIONS) is None


def test_each_task_has_a_panel_and_many_values_have_few_ticks(make_run, build):
    for i in range(30):
        for env in ("toy/a", "toy/b", "other"):
            make_run(f"{env}{i}", {0: [0.0, i / 30]}, {"hparams.gamma": i / 30}, env=env)
    data, rankings, names = build()
    panels = figures.curves(data, names, OPTIONS).get_axes()
    assert [panel.get_title(loc="left") for panel in panels] == ["other", "toy/a", "toy/b"]
    figure = figures.sensitivity(data, rankings, "hparams.gamma", OPTIONS)
    assert len(figure.get_axes()) == 4, "three tasks, and all tasks"
    assert len(figure.get_axes()[0].get_xticks()) < 15
    assert lines(figure.get_axes()[0])[-1].get_linestyle() == "None"


def test_dollar_signs_are_not_formulas(make_run, build):
    make_run("0", {0: [0.3]}, {"algo.name": "a$^$b"})
    make_run("1", {0: [0.3]})
    data, rankings, names = build()
    for figure in (
        figures.curves(data, names, OPTIONS),
        figures.improvement(rankings, names, OPTIONS),
        figures.sensitivity(data, rankings, "algo.name", OPTIONS),
    ):
        assert figures.png(figure)
