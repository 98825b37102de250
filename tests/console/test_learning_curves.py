"""Learning curves, summary and value tables of a run."""

import io
import math

import numpy as np
import pytest
import rich.console
from matplotlib import collections, image

from qmix_jax import config
from qmix_jax.console import learning_curves
from qmix_jax.envs import base
from qmix_jax.runs import record, storage

COLUMNS = ("train/loss", "train/td_error_abs", "train/q_taken", "train/target", "train/grad_norm")


def sample(n_seeds=3, win_rate=True, loss_sign=1.0):
    """Metrics of a small run as from `storage.read_metrics`: 4 log rows, 2 evaluations per seed."""
    rows = [
        {"kind": kind, "env_steps": 1000.0 * step, "seed": float(seed), "value": step + seed}
        for kind, steps in (("train", (1, 2, 3, 4)), ("eval", (2, 4)))
        for step in steps
        for seed in range(n_seeds)
    ]
    metrics = {key: np.array([row[key] for row in rows]) for key in ("kind", "env_steps", "seed")}
    value = np.array([row["value"] for row in rows], float)
    train = metrics["kind"] == "train"
    metrics |= {name: np.where(train, value, math.nan) for name in COLUMNS}
    metrics["train/loss"] = metrics["train/loss"] * loss_sign
    metrics["eval/return"] = np.where(train, math.nan, value)
    metrics["eval/win_rate"] = np.where(train | (not win_rate), math.nan, value / 10)
    return metrics


def panels(figure):
    return {panel.get_title(loc="left"): panel for panel in figure.get_axes()}


def printed(function, *arguments):
    console = rich.console.Console(file=io.StringIO(), width=120)
    function(*arguments, console=console)
    return console.file.getvalue()


def test_interval_by_hand():
    mean, low, high = learning_curves.interval(np.float32([1.0, 2.0, 3.0]))
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    np.testing.assert_allclose([mean, low, high], [2.0, 2.0 - half, 2.0 + half], rtol=1e-6)
    mean, low, high = learning_curves.interval(np.ones((1, 4)))
    assert mean.shape == (4,)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_series_orders_seeds_and_steps_and_drops_incomplete_steps():
    metrics = {
        "seed": np.array([7.0, 3.0, 3.0, 7.0, 3.0]),
        "env_steps": np.array([20.0, 20.0, 10.0, 10.0, 30.0]),
        "x": np.array([4.0, 3.0, 1.0, 2.0, 9.0]),
    }
    steps, values = learning_curves.series(metrics, "x")
    np.testing.assert_array_equal(steps, [10.0, 20.0])
    np.testing.assert_array_equal(values, [[1.0, 3.0], [2.0, 4.0]])
    assert learning_curves.series(metrics, "absent")[0].size == 0


def test_panels_labels_and_scales():
    figure = learning_curves.figure(sample(), "smax_3m · QMIX · 3m")
    by_title = panels(figure)
    assert list(by_title)[:2] == ["Greedy win rate", "Greedy return"]
    assert list(by_title)[2:] == [
        "Loss",
        "|TD error|",
        "Q of taken actions",
        "Target",
        "Gradient norm",
    ]
    assert {panel.get_xlabel() for panel in by_title.values()} == {"env steps"}
    assert by_title["Greedy return"].get_ylabel() == "episode return"
    logarithmic = [name for name, panel in by_title.items() if panel.get_yscale() == "log"]
    assert logarithmic == ["Loss", "Gradient norm"]
    assert by_title["Greedy return"].xaxis.get_major_formatter()(250_000, 0) == "250k"
    assert figure.get_suptitle() == "smax_3m · QMIX · 3m · 3 seeds"


@pytest.mark.parametrize(("n_seeds", "n_lines", "n_bands"), [(1, 1, 0), (2, 3, 1), (5, 6, 1)])
def test_bands_and_thin_lines(n_seeds, n_lines, n_bands):
    for panel in learning_curves.figure(sample(n_seeds)).get_axes():
        assert len(panel.lines) == n_lines
        bands = [item for item in panel.collections if isinstance(item, collections.PolyCollection)]
        assert len(bands) == n_bands
        mean = panel.lines[-1].get_ydata()
        thin = [line.get_ydata() for line in panel.lines[:-1]] or [mean]
        np.testing.assert_allclose(mean, np.mean(thin, axis=0))


def test_without_win_rate_or_positive_loss():
    by_title = panels(learning_curves.figure(sample(win_rate=False, loss_sign=-1.0)))
    assert "Greedy win rate" not in by_title
    assert by_title["Loss"].get_yscale() == "linear"


def test_metrics_without_values_are_an_error():
    empty = {"kind": np.array(["train"]), "env_steps": np.array([1.0]), "seed": np.array([0.0])}
    with pytest.raises(config.ConfigError, match="eval/return"):
        learning_curves.figure(empty)


def test_curves_from_a_file(tmp_path):
    metrics = sample()
    rows = [
        {"update": 0, "gradient_step": 0} | {name: metrics[name][i] for name in metrics}
        for i in range(len(metrics["seed"]))
    ]
    names = [name for name in metrics if "/" in name]
    with storage.MetricsFiles(tmp_path, names) as files:
        files.write(rows)
    path = tmp_path / "curves.png"
    record.draw_curves(tmp_path, "title")
    pixels = image.imread(path)
    assert pixels.shape[1] == 1800
    assert pixels.std() > 0.05
    assert path.stat().st_size > 20_000


def test_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    totals = learning_curves.Totals(4_000, 3200, compile_s=14.0, train_s=0.24, eval_s=6.0)
    text = printed(learning_curves.summary, sample(), totals, [tmp_path / "run" / "[a].csv"])
    assert "5 [2.52, 7.48]" in text  # final returns 4, 5, 6
    assert "4 .. 6" in text
    assert "win rate, final" in text
    assert "4,000 env steps, 3,200 gradient steps" in text
    assert "50k env steps/s over 3 seed(s)" in text
    assert "00:20 = compile 14.0 s + train 0.2 s + evaluate 6.0 s" in text
    assert "file   run/[a].csv\n" in text


def test_an_interrupted_run_has_no_final_evaluation():
    totals = learning_curves.Totals(4_500, 3200, compile_s=14.0, train_s=60.0, eval_s=6.0)
    text = printed(learning_curves.summary, sample(), totals)
    assert "win rate, after 4k env steps" in text
    assert "final" not in text


def test_win_rate_intervals_stay_within_zero_and_one():
    values = np.array([0.9, 1.0])
    text = printed(learning_curves.scores, "title", {"win_rate": values, "return": values})
    assert "0.95 [0.315, 1] " in text
    assert "0.95 [0.315, 1.59]" in text


def test_the_best_evaluation_is_chosen_per_seed():
    metrics = sample(2, win_rate=False)
    evaluations = metrics["kind"] == "eval"
    metrics["eval/return"][evaluations] = [8.0, 1.0, 2.0, 4.0]  # seeds 0, 1 at 2000, then at 4000
    text = printed(learning_curves.summary, metrics, learning_curves.Totals(1, 1, 0.0, 1.0, 0.0))
    best = next(line for line in text.splitlines() if "best" in line)
    assert " 6 [" in best
    assert "4 .. 8" in best


POINT = base.DecisionPoint(
    name="state 2B",
    obs=None,
    state=None,
    optimal=np.array([[0.0, 1.0], [1.0, 8.0]]),
    exact={
        "additive": np.array([[-1.5, 2.5], [2.5, 6.5]]),
        "independent": np.array([[0.25, 4.75], [0.25, 4.75]]),
    },
)


def test_joint_tables():
    learned = np.stack([POINT.optimal, POINT.optimal + 2.0])
    text = printed(learning_curves.joint_tables, [POINT], [learned])
    for part in ("state 2B", "9.00 ± 1.41", "optimal", "8.00", "additive", "6.50", "2 seeds"):
        assert part in text
    assert "4.75" not in text


def test_utility_tables():
    text = printed(learning_curves.utility_tables, [POINT], [POINT.exact["independent"][None]])
    for part in ("agent 2", "action 1", "4.75", "independent"):
        assert part in text
    assert "±" not in text
    assert "6.50" not in text


def test_tables_of_other_shapes_are_errors():
    with pytest.raises(ValueError, match="rows, columns"):
        printed(learning_curves.joint_tables, [POINT], [np.zeros((2, 2, 2, 2))])
    with pytest.raises(ValueError, match="zip"):
        printed(learning_curves.joint_tables, [POINT], [])


def test_the_greedy_cell_is_bold():
    console = rich.console.Console(file=io.StringIO(), width=120, force_terminal=True)
    learning_curves.joint_tables([POINT], [POINT.optimal[None] + 1.0], console=console)
    lines = console.file.getvalue().splitlines()
    row = next(line for line in lines if "9.00" in line)
    assert "\x1b[1m9.00\x1b[0m" in row
    assert "\x1b[1m2.00" not in row
