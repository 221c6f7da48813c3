"""Every Python block in the documentation runs, and prints what the block behind it says.

A ``code-block:: python`` is run as a script of its own. The comment ``.. snippet: hooked`` before it runs it with
``python -m lissom``. A ``code-block:: text`` with ``:class: output``, or the next block after the comment
``.. output`` (for pages that are also read where the class is not known), is what it must print.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.rst", "ARCHITECTURE.rst", "CONTRIBUTING.rst")] + sorted(
    path for path in (ROOT / "docs").rglob("*.rst") if "_build" not in path.parts
)


@dataclass
class Snippet:
    """A block of Python on a page."""

    page: Path
    line: int
    source: str
    hooked: bool
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.stem}:{self.line}"


def block_at(lines: list[str], start: int) -> tuple[list[str], str]:
    """Return options and text of the directive in line `start`."""
    base = len(lines[start]) - len(lines[start].lstrip())
    body: list[str] = []
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= base:
            break
        body.append(line)
    text = textwrap.dedent("\n".join(body)).split("\n")
    options = []
    while text and text[0].startswith(":"):
        options.append(text.pop(0))
    return options, "\n".join(text).strip("\n") + "\n"


def snippets_in(page: Path) -> list[Snippet]:
    """Return the Python blocks of a page with what they must print."""
    lines = page.read_text().splitlines()
    found: list[Snippet] = []
    comment = ""
    for number, line in enumerate(lines):
        words = line.strip()
        if words in {".. code-block:: python", ".. testcode::"}:
            _, source = block_at(lines, number)
            found.append(Snippet(page, number + 1, source, hooked=comment == ".. snippet: hooked"))
            comment = ""
        elif words in {".. code-block:: text", ".. testoutput::"}:
            options, text = block_at(lines, number)
            if found and (":class: output" in options or comment == ".. output" or "testoutput" in words):
                found[-1].output = text
            comment = ""
        elif words.startswith((".. snippet:", ".. output")):
            comment = words
    return found


SNIPPETS = [snippet for page in PAGES if page.exists() for snippet in snippets_in(page)]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_snippet_runs_and_prints_what_the_page_says(script: Script, snippet: Snippet) -> None:
    done = script(snippet.source, hooked=snippet.hooked)
    assert done.stderr == ""
    if snippet.output is not None:
        assert done.stdout == snippet.output


def test_snippets_are_found() -> None:
    assert len(SNIPPETS) >= 5
    assert sum(snippet.output is not None for snippet in SNIPPETS) >= 5
