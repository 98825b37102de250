"""`qmix-jax evaluate` and `qmix-jax export`: their flags and what they print."""

import argparse
import json
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import omegaconf

import qmix_jax
from qmix_jax import config


def evaluate(arguments: Sequence[str]) -> int:
    """Evaluates a trained run and prints what it reached."""
    parser = _parser()
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("--json", action="store_true")
    for name in ("--episodes", "--seeds"):
        parser.add_argument(name, type=int, default=argparse.SUPPRESS)
    parser.add_argument("--seed", type=_number_or("last"), default=argparse.SUPPRESS)
    parser.add_argument("--members", type=_members, default=argparse.SUPPRESS)
    given = vars(parser.parse_intermixed_args(arguments))
    out, as_json, values = given.pop("out"), given.pop("json"), _values(given.pop("overrides"))
    done = qmix_jax.evaluate_run(**given, values=values)
    from qmix_jax.console import learning_curves
    from qmix_jax.runs import storage

    line = json.dumps(storage.plain(done._asdict()))
    if out is not None:
        _write(out, line)
    if as_json:
        print(line)
        return 0
    count = done.episodes * max(1, len(done.seeds))
    title = (
        f"{done.env}, {done.parameters} parameters: {count} episodes of "
        f"{len(done.members)} member(s)"
    )
    learning_curves.scores(
        title, {name: values.mean(axis=1) for name, values in done.metrics.items()}
    )
    return 0


def export(arguments: Sequence[str]) -> int:
    """Writes a trained policy for use elsewhere, and says what was written."""
    parser = _parser()
    parser.add_argument("--out")
    parser.add_argument("--format", dest="formats", type=_list, default=argparse.SUPPRESS)
    parser.add_argument("--platforms", type=_list, default=argparse.SUPPRESS)
    parser.add_argument("--member", type=_number_or("best"), default=argparse.SUPPRESS)
    given = vars(parser.parse_intermixed_args(arguments))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        folder = qmix_jax.export_run(**given)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>10,} bytes  {path}")
    for warning in said:
        print(warning.message)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = _refuse
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--parameters", default=argparse.SUPPRESS)
    return parser


def _refuse(message: str) -> NoReturn:
    raise config.ConfigError(f"command line: {message}")


def _list(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _number_or(word: str) -> Any:
    def number(text: str) -> int | str:
        return word if text == word else int(text)

    number.__name__ = f"number or {word!r}"  # what argparse calls it in its message
    return number


def _members(text: str) -> str | tuple[int, ...]:
    return text if text == "best" else tuple(map(int, _list(text)))


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted keys of `key=value`, the values read as YAML."""
    values = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise config.ConfigError(
                f"command line: {override!r} is neither DIR, which comes first, nor key=value"
            )
        read = omegaconf.OmegaConf.from_dotlist([f"value={text}"])
        values[key] = omegaconf.OmegaConf.to_container(read)["value"]  # pyright: ignore
    return values


def _write(path: str, line: str) -> None:
    try:
        pathlib.Path(path).write_text(f"{line}\n", encoding="utf-8")
    except OSError as error:
        raise config.ConfigError(
            f"evaluate: cannot write {path!r} ({error.strerror}); choose another --out"
        ) from error
