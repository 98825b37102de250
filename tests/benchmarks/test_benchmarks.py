"""The benchmarks run, and their counts are correct."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as command
from benchmarks import cases, measure

pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")


@pytest.mark.slow
@pytest.mark.parametrize("name", command.NAMES)
def test_smoke_mode_prints_a_table_and_appends_one_json_line_per_row(name, tmp_path, capsys):
    out = tmp_path / "new" / "lines.jsonl"
    assert command.main([name, "--smoke", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{len(lines)} line(s) added" in printed and "case" in printed
    for line in lines:
        assert line["benchmark"] == name and line["config"]["smoke"] is True
        assert {"command", "versions", "device", "git", "config_hash"} <= line.keys()
        figures = [v for v in line["result"].values() if isinstance(v, int | float)]
        assert len(figures) >= 3 and all(math.isfinite(v) for v in figures)


def test_an_unknown_key_is_a_one_line_error_with_exit_code_2(tmp_path, capsys):
    for arguments in (["train", "trainer.nenvs=3"], ["update", "--smoke", "Q=3"]):
        assert command.main([*arguments, "--out", str(tmp_path / "x")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and "allowed" in error


def test_matmul_flops_multiply_scans_out_and_see_inside_gradients():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert measure.matmul_flops(jnp.dot, a, b) == 2 * 3 * 4 * 5
    batched = jax.vmap(jnp.dot, in_axes=(0, None))
    assert measure.matmul_flops(batched, jnp.ones((7, 3, 4)), b) == 7 * 2 * 3 * 4 * 5

    def loop(x, w):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ w), None), x, None, length=6)[0]

    square = jnp.ones((4, 4))
    assert measure.matmul_flops(loop, a, square) == 6 * 2 * 3 * 4 * 4
    gradient = jax.grad(lambda w: jnp.sum(loop(a, w)))
    assert measure.matmul_flops(gradient, square) == pytest.approx(3 * 6 * 96, rel=0.1)

    def unknown(n):
        return jax.lax.fori_loop(0, n, lambda _, x: x @ square, square)

    with pytest.raises(ValueError, match="unknown length"):
        measure.matmul_flops(unknown, 3)


def test_an_update_counts_three_forward_passes_of_the_online_and_one_of_the_target_network():
    sizes = cases.Sizes(T=6, B=3, N=2, O=5, S=4, A=3, H=8, E=4, F=8)
    case = cases.learner_case(sizes)
    counted = measure.matmul_flops(
        case.learner.update, case.state, case.batch, case.hparams, cases.clock(0), jax.random.key(0)
    )
    t, b, n, h = 7, sizes.B, sizes.N, sizes.H
    inputs = sizes.O + sizes.A + n
    agent = 2 * t * b * n * (inputs * h + h * 3 * h + h * 3 * h + h * sizes.A)
    e, f, s = sizes.E, sizes.F, sizes.S
    mixer = 2 * 6 * b * (s * f + f * n * e + s * e + s * f + f * e + s * e + e)
    first_layers = 2 * t * b * n * inputs * h + 2 * 6 * b * (2 * s * f + 2 * s * e)
    # The gradient of a first layer's input is not needed.
    assert counted == pytest.approx(4 * (agent + mixer) - first_layers, rel=0.02)


def test_timings_are_medians_of_calls_in_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = measure.interleaved(calls, repeats=3)
    assert order == list("ab") * 4, "the first round is not counted"
    assert timings["a"].repeats == 3 and timings["a"].median >= 0
    assert measure.gemm_rate(64, repeats=1) > 0
