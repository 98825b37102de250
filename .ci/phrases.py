"""Reports phrases that the project does not use, and what to write instead; exit code 1 if any.

python .ci/phrases.py [FILE ...]        by default every text file of the project
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = (
    "qmix_jax", "hydra_plugins", "configs", "benchmarks", "tests", "docs", "examples",
)  # fmt: skip
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".j2", ".ipynb"}

PHRASES = {
    r"(?:go|goes|going|went|gone) on\b(?! the\b)": "continue, resume",
    r"what (?:\w+ ){1,5}(?:came|comes|come) to\b": "result",
    r"(?:came|comes|come) of (?:it|this|them)\b": "result",
    r"what (?:is|was|are) kept": "stored, saved",
    r"mend(?:s|ed|ing)?\b": "fix",
    r"told\b": "reported, passed",
    r"of one's own": "user-defined",
    r"of your own(?! (?:module|code|package|folder)\b)": "your own ..., user-defined",
    r"(?:lay|lays|laid|lie|lies) (?:\w+ )?beside": "compare with",
    r"laid to\b": "blame",
    r"(?:cannot|can't|can not) bear": "violates the contract, is not supported",
    r"(?:put|puts|set|sets) (?:\w+ )?right\b": "fix",
    r"shown to people|for people\b": "displayed",
    r"so often\b": "with probability, that many times",
    r"where there (?:is|are) (?:one|some|any)\b": "if any",
    r"what there is\b": "what is available",
    r"is had\b|can be had\b|to be had\b": "is available",
    r"so (?:many|much) of\b": "that many",
    r"(?:its|their) own numbers": "coefficients, hparams",
    r"(?:is|are) whole\b|whole again\b": "complete",
    r"keeps? (?:its|the) contract": "satisfies the contract",
    r"in spite of": "despite",
    r"sign of life": "heartbeat",
    r"the same each time": "fixed",
    r"what (?:every|each) \w+ promises": "contract",
    r"by (?:itself|themselves)\b": "automatically, separately",
    r"(?:is|are) left alone": "is not changed",
    r"stands? still": "is not stepped",
}
_GAP = r"(?:\s+(?:#:?\s+)?|\"\s*f?\")+"
"""Between two words: a space, the end of a line of text, comment or string."""
PATTERNS = [
    (re.compile(rf"(?i)(?<![\w`]){phrase.replace(' ', _GAP)}"), advice)
    for phrase, advice in PHRASES.items()
]


def texts() -> list[pathlib.Path]:
    """Text files of the project."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")))
    return [*ROOT.glob("*.md"), *(path for path in paths if path.suffix in SUFFIXES)]


def findings(path: pathlib.Path) -> list[str]:
    """One line per phrase."""
    text = path.read_text(encoding="utf-8")
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: "
        f"{' '.join(match[0].split())!r}: say {advice}"
        for pattern, advice in PATTERNS
        for match in pattern.finditer(text)
    ]


def main() -> int:
    """Prints every finding."""
    paths = [pathlib.Path(name).resolve() for name in sys.argv[1:]] or texts()
    lines = [line for path in paths for line in findings(path)]
    print("\n".join(lines) or f"no phrase to replace in {len(paths)} files")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
