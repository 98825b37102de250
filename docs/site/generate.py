"""Writes the generated blocks of the pages in docs/ from the package.

python docs/site/generate.py            writes them
python docs/site/generate.py --check    names the pages that differ; exit code 1 if any does
"""

import argparse
import pathlib
import sys

# this checkout, whatever is installed
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import pages


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="generate.py", description="Write generated blocks.")
    parser.add_argument("--check", action="store_true", help="change nothing, name what differs")
    check = parser.parse_args(arguments).check
    outdated = False
    for path in pages.paths():
        text = path.read_text(encoding="utf-8")
        expected = pages.fill(text)
        if text == expected:
            continue
        name = path.relative_to(pages.ROOT).as_posix()
        if check:
            outdated = True
            line = _first_difference(text, expected)
            print(f"error: {name}:{line} is outdated; run: python docs/site/generate.py")
        else:
            path.write_text(expected, encoding="utf-8")
            print(f"written: {name}")
    return int(outdated)


def _first_difference(text: str, expected: str) -> int:
    """Number of the first line that differs."""
    lines = zip(text.splitlines(), expected.splitlines(), strict=False)
    return next(
        (number for number, (old, new) in enumerate(lines, 1) if old != new),
        min(len(text.splitlines()), len(expected.splitlines())) + 1,
    )


if __name__ == "__main__":
    sys.exit(main())
