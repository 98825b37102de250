"""`qmix-jax render`."""

import argparse

from qmix_jax.cli import arguments

SUMMARY = "draw greedy episodes: GIF and contact sheet, or transcript"

_EXAMPLES = """\
  qmix-jax render DIR
  qmix-jax render DIR --episodes 3 --member 1 --out videos
  qmix-jax render DIR env.options.scenario=5m_vs_6m --fps 10 --out battle.gif
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "render",
        "Play greedy episodes with a policy of a run and draw them.",
        "DIR [env.options.key=value ...] [options]",
        _EXAMPLES,
    )
    command.argument("directory", "DIR", "a run directory")
    command.overrides("other `env.options`; shapes must stay the same")
    command.option("--episodes", "N", "number of episodes (default: 1)", type=int)
    command.option("--seed", "N", "seed of the episodes (default: 0)", type=int)
    command.option("--member", "N", "member of the run (default: 0)", type=int)
    command.option("--parameters", "best|final", "parameters of the policy (default: best)")
    command.option("--fps", "N", "frames per second of the GIF, at most 50", type=float)
    command.option("--out", "PATH", "a folder, FILE.gif or FILE.txt (default: `render` in DIR)")
    return command


def run(options: argparse.Namespace) -> int:
    settings = vars(options)
    overrides = arguments.values(settings.pop("overrides"))
    from qmix_jax.render import build  # imports JAX, for which `--help` need not wait

    for number, episode in enumerate(build.render_run(**settings, overrides=overrides)):
        paths = (episode.animation, episode.transcript, episode.sheet)
        files = " ".join(str(path) for path in paths if path)
        outcome = f"return {episode.episode_return:.2f}, {episode.ending} after {episode.steps}"
        print(f"episode {number}: {outcome} steps; written to {files}")
    return 0
