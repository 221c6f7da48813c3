"""The page "What is hooked" names every function in the tables of ``hooks/*.rs``, and no other.

The tables are read from the sources: ``hook!(OWNER, c"name", wrapper)``, with constants such as
``const LOCK: Owner = Owner::Type(c"_thread", c"LockType");``. On the page each ``list-table`` has the owner as its
title, and the names stand in its first column.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOOKS = ROOT / "crates" / "python" / "src" / "hooks"
PAGE = ROOT / "docs" / "hooked.rst"

OWNER = r'Owner::(?:Module|Type|TypeOf)\(\s*((?:c"\w+"(?:\s*,\s*)?)+|c"\w+",\s*\$kind)\s*\)'
STRING = re.compile(r'c"(\w+)"')


def owner_name(arguments: str) -> str:
    """Return ``_socket.socket`` for ``c"_socket", c"socket"``."""
    return ".".join(STRING.findall(arguments))


def hooked_in(source: str, shared: dict[str, str]) -> set[tuple[str, str]]:
    """Return owner and name of every row in a file's tables; `shared` are the owners that other files name, too."""
    owners = shared | {
        name: owner_name(arguments)
        for name, arguments in re.findall(r"(?:const|let) (\w+)(?:: Owner)? = " + OWNER, source)
    }
    rows = set()
    for owner, inline, name in re.findall(r"hook!\(\s*(?:" + OWNER + r'|(\w+)),\s*c"(\w+)"', source):
        rows.add((owner_name(owner) if owner else owners[inline], name))
    # One macro for all methods of a type: methods!(c"BufferedReader": c"read" c"peek").
    module = re.search(r'Owner::Type\(c"(\w+)", \$kind\)', source)
    for kind, names in re.findall(r'methods!\(c"(\w+)":((?:\s*c"\w+")+)\s*\)', source):
        assert module
        rows |= {(f"{module[1]}.{kind}", name) for name in STRING.findall(names)}
    return rows


def tables() -> dict[str, set[str]]:
    """Return what the sources hook: names by owner."""
    sources = {path.name: path.read_text() for path in HOOKS.glob("*.rs")}
    shared = {
        name: owner_name(arguments)
        for source in sources.values()
        for name, arguments in re.findall(r"pub\(\w+\) const (\w+): Owner = " + OWNER, source)
    }
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file, source in sources.items():
        body = source[source.index("fn table()") :] if file == "mod.rs" else source
        for owner, name in hooked_in(body, shared):
            found[owner].add(name)
    return dict(found)


def page() -> dict[str, set[str]]:
    """Return what the page says: names by owner."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    owner, first = "", False
    for line in PAGE.read_text().splitlines():
        if title := re.match(r"\.\. list-table:: ``([\w.]+)``", line):
            owner = title[1]
        elif line and not line.startswith(" "):
            owner = ""
        elif line.startswith("   * - "):
            first = True
        elif line.startswith("     - "):
            first = False
        if owner and first and line.startswith("   "):
            found[owner] |= set(re.findall(r"``(\w+)``", line))
    return dict(found)


def test_page_names_what_the_tables_hook_and_nothing_else() -> None:
    assert page() == tables()


def test_every_row_of_the_tables_is_read() -> None:
    # call.rs defines the macro.
    files = [path for path in HOOKS.glob("*.rs") if path.name != "call.rs"]
    rows = sum(len(re.findall(r"\bhook!\(", path.read_text())) for path in files)
    # The macro in buffered.rs is one row for many names; select.select has two rows: one waits, one is for its depth.
    names = sum(len(names) for owner, names in tables().items() if not owner.startswith("_io.Buffered"))
    assert names == rows - 2


def test_every_owner_exists_in_this_interpreter() -> None:
    import importlib

    for owner in tables():
        module, _, name = owner.partition(".")
        # The handle of a thread is new in 3.13.
        if owner != "_thread._ThreadHandle":
            assert not name or hasattr(importlib.import_module(module), name), owner
