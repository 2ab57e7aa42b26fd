"""The fenced blocks of the pages in docs/, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
READMES = [ROOT / folder / "README.md" for folder in (".", "examples/fork")]
OUTPUT = "output"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?:(?: {4,}.*)?\n)+")
COMMAND = re.compile(r"(?:^|/|\s)python (-m dyhead_jax\.[\w.]+|train\.py)")


@dataclass(frozen=True)
class Block:
    """line: of its first line in the page, counted from 1. title: the name of the file that it is a part of, by its
    title or, in a README, its first comment; OUTPUT for what the block before prints; or ""."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    content = page.read_text()
    return [
        Block(match[1], _title(match), match[3], content[: match.start(3)].count("\n") + 1)
        for match in FENCE.finditer(content)
    ]


def _title(match: re.Match[str]) -> str:
    comment = re.match(r"# (\w+\.py)\n", match[3])
    return (match[2] or (comment[1] if comment else "")).partition(",")[0]


def files(page: Path) -> dict[str, str]:
    """The text of each file that the page shows, joined over its blocks."""
    found: dict[str, str] = {}
    for block in blocks(page):
        if block.language == "python" and block.title:
            found[block.title] = found.get(block.title, "") + block.text
    return found


def commands(page: Path) -> list[list[str]]:
    """The words of each command of this package in the page's shell blocks, from "-m" or "train.py" on."""
    content = page.read_text()
    shell = [block.text for block in blocks(page) if block.language == "sh"]
    shell += INDENTED.findall(FENCE.sub("", content))
    found = []
    for line in re.sub(r"\\\n\s*", " ", "\n".join(shell)).splitlines():
        if match := COMMAND.search(line):
            words = shlex.split(line[match.start(1) :], comments=True)
            ends = [i for i, word in enumerate(words) if word in ("&&", "||", "|", ";", "...")]
            found.append(words[: ends[0]] if ends else words)
    return found
