"""One gradient update of QMIX, and its share of this process's matrix-product rate."""

import dataclasses

import jax

from benchmarks import cases, measure
from qmix_jax.types import Array

SIZES = {
    "2s3z, H=64": cases.Sizes(),
    "2s3z, H=256": cases.Sizes(H=256),
    "3m window": cases.Sizes(T=16, B=32, N=3, O=75, S=72, A=8, E=32, F=64),
}
SMOKE = {"smoke": cases.Sizes(T=5, B=2, N=2, O=4, S=4, A=3, H=8, E=4, F=8)}


def run(options: measure.Options) -> None:
    """Prints milliseconds per update; `T=16 B=8 H=64 precision=bfloat16` changes every case."""
    sizes, precision = _parse(options)
    n_rows = 256 if options.smoke else 2048
    gemm = measure.gemm_rate(n_rows)
    rows = [_row(name, size, precision, gemm, options) for name, size in sizes.items()]
    notes = [
        f"{gemm / 1e9:.0f} GFLOP/s in a square float32 matrix product of this process "
        f"({n_rows} rows)",
        "GFLOP counts matrix products only: online and target networks forward, online backward",
        f"networks compute in {precision}",
    ]
    measure.report("update", rows, options, notes)


def _parse(options: measure.Options) -> tuple[dict[str, cases.Sizes], str]:
    """(case -> sizes, precision)."""
    values = dict(override.split("=", 1) for override in options.overrides)
    precision = values.pop("precision", "default")
    fields = {field.name for field in dataclasses.fields(cases.Sizes)}
    if unknown := sorted(values.keys() - fields):
        raise ValueError(f"update: unknown size {unknown[0]!r}; allowed: {', '.join(fields)}")
    changes = {name: int(value) for name, value in values.items()}
    sizes = SMOKE if options.smoke else SIZES
    return {name: dataclasses.replace(size, **changes) for name, size in sizes.items()}, precision


def _row(
    name: str, sizes: cases.Sizes, precision: str, gemm: float, options: measure.Options
) -> measure.Row:
    case = cases.learner_case(sizes, precision)
    n = 2 if options.smoke else max(4, int(2e10 / _flops(case)))

    def loop(state, batch, hparams):
        def body(i: Array, state):
            return case.learner.update(state, batch, hparams, cases.clock(i), jax.random.key(0))[0]

        return jax.lax.fori_loop(0, n, body, state)

    program = measure.compile_call(loop, case.state, case.batch, case.hparams)
    timing = measure.interleaved({name: program.call}, options.repeats)[name]
    flops = _flops(case)
    seconds = timing.median / n
    return {
        "case": name,
        **dataclasses.asdict(sizes),
        "update ms": 1e3 * seconds,
        "iqr ms": 1e3 * timing.iqr / n,
        "GFLOP": flops / 1e9,
        "GFLOP/s": flops / seconds / 1e9,
        "share of matmul rate": flops / seconds / gemm,
        "compile s": program.compile_s,
        "temp MB": program.temp_bytes / 1e6,
        "peak MB": measure.peak_bytes() / 1e6,
        "repeats": options.repeats,
    }


def _flops(case: cases.LearnerCase) -> float:
    return measure.matmul_flops(
        case.learner.update,
        case.state,
        case.batch,
        case.hparams,
        cases.clock(0),
        jax.random.key(0),
    )
