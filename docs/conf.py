"""Sphinx settings; ``make docs`` builds with warnings as errors."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent

project = "Lissom"
author = "The Lissom developers"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's name
with (ROOT / "Cargo.toml").open("rb") as _file:
    release = tomllib.load(_file)["workspace"]["package"]["version"]

extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"Lissom {release}"
exclude_patterns = ["_build"]
nitpicky = True
default_role = "any"
add_module_names = False
autodoc_member_order = "groupwise"
autodoc_typehints = "description"
# Names of the standard library stay plain text: a build fetches no inventories from the network.
nitpick_ignore_regex = [("py:(class|exc|data|obj|func|meth|mod)", r"(?!lissom\b).*")]


def _without_benchmarks(_app: object, docname: str, source: list[str]) -> None:
    """Leave the benchmarks out of the contents where they have not been measured."""
    # docs/benchmarks.rst is rendered by `make bench`; a tree without it is complete.
    if docname == "index" and not (ROOT / "docs" / "benchmarks.rst").exists():
        source[0] = source[0].replace("   benchmarks\n", "")


def setup(app: "Sphinx") -> None:
    """Connect what the settings above cannot say."""
    app.connect("source-read", _without_benchmarks)
