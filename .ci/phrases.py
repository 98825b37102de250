"""Reports phrases that the project does not use, and what to write instead; exit code 1 if any.

python .ci/phrases.py [FILE ...]        every tracked text file by default
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".ipynb"}
SKIPPED = ("benchmarks/results/", ".ci/phrases.py")

PHRASES = {
    r"(?:go|goes|going|went|gone) on\b(?! the\b)": "continue, resume",
    r"what (?:\w+ ){1,5}(?:came|comes|come) to\b": "result",
    r"(?:came|comes|come) of (?:it|this|them)\b": "result",
    r"what (?:is|was|are) kept": "stored, saved",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\btold\b": "reported, passed",
    r"of one's own": "user-defined",
    r"\bof your own\b": "your own ..., user-defined",
    r"(?:lay|lays|laid|lie|lies) (?:\w+ )?beside": "compare with",
    r"\blaid to\b": "blame",
    r"(?:cannot|can't|can not) bear": "violates the contract, is not supported",
    r"(?:put|puts|set|sets) (?:\w+ )?right\b": "fix",
    r"shown to people|for people\b": "displayed",
    r"\bso often\b": "with probability, that many times",
    r"where there (?:is|are) (?:one|some|any)\b": "if any",
    r"what there is\b": "what is available, what exists",
    r"\bis had\b|can be had\b|to be had\b": "is available",
    r"\bso (?:many|much) of\b": "that many",
    r"(?:its|their) own numbers": "coefficients, hparams",
    r"\bwhole again\b|is whole\b|are whole\b": "complete",
    r"best (?:so far )?that (?:there )?was\b": "best run",
}
PATTERNS = [(re.compile(rf"(?i)(?<![\w`]){phrase}"), advice) for phrase, advice in PHRASES.items()]


def tracked() -> list[pathlib.Path]:
    """Text files of the repository."""
    names = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    return [
        ROOT / name
        for name in names
        if pathlib.Path(name).suffix in SUFFIXES and not name.startswith(SKIPPED)
    ]


def findings(path: pathlib.Path) -> list[str]:
    """One line per phrase; a phrase may continue on the next line of the text."""
    text = re.sub(
        r"\n[ \t]*(?:#:? ?|> ?)?", lambda match: "\n" + " " * (len(match[0]) - 1), path.read_text()
    )
    flat = text.replace("\n", " ")
    flat = re.sub(r" {2,}", lambda match: " " + "\0" * (len(match[0]) - 1), flat)
    kept = [i for i, char in enumerate(flat) if char != "\0"]
    flat = flat.replace("\0", "")
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, kept[match.start()]) + 1}: "
        f"{match[0]!r}: say {advice}"
        for pattern, advice in PATTERNS
        for match in pattern.finditer(flat)
    ]


def main() -> int:
    """Prints every finding."""
    paths = [pathlib.Path(name).resolve() for name in sys.argv[1:]] or tracked()
    lines = [line for path in paths if path.is_file() for line in findings(path)]
    print("\n".join(lines) or f"no phrase to replace in {len(paths)} files")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
