"""The rules of ARCHITECTURE.rst that a machine can check: who may import whom, and how long files get."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CRATES = ROOT / "crates"
STUB = ROOT / "python" / "lissom" / "_core.pyi"
REFERENCE = ROOT / "docs" / "reference.rst"

# The crates that know nothing of Python or of each other.
INDEPENDENT = ("fiber", "sched", "proactor")
MAX_LINES = 800
SOURCES = {".rs", ".py", ".pyi", ".c", ".h", ".rst", ".toml", ".sh"}


def dependencies(crate: str) -> set[str]:
    """Return the names of all packages that a crate depends on, in every kind of table and for every target."""
    with (CRATES / crate / "Cargo.toml").open("rb") as file:
        manifest = tomllib.load(file)
    tables = [manifest, *manifest.get("target", {}).values()]
    kinds = ("dependencies", "dev-dependencies", "build-dependencies")
    return {
        settings.get("package", name) if isinstance(settings, dict) else name
        for table in tables
        for kind in kinds
        for name, settings in table.get(kind, {}).items()
    }


def crates() -> list[str]:
    return sorted(path.parent.name for path in CRATES.glob("*/Cargo.toml"))


@pytest.mark.parametrize("crate", INDEPENDENT)
def test_independent_crate_depends_on_no_other_crate_of_ours(crate: str) -> None:
    assert not {name for name in dependencies(crate) if name.startswith("lissom")}


@pytest.mark.parametrize("crate", [name for name in crates() if name != "python"])
def test_only_the_python_crate_depends_on_pyo3(crate: str) -> None:
    assert not {name for name in dependencies(crate) if name.startswith("pyo3")}


def test_python_crate_sees_the_interpreter_through_pyo3_ffi() -> None:
    pyo3 = {name for name in dependencies("python") if name.startswith("pyo3")}
    assert pyo3 == {"pyo3-ffi", "pyo3-build-config"}


def test_no_crate_depends_on_the_python_crate() -> None:
    assert not {crate for crate in crates() if "lissom-python" in dependencies(crate)}


def test_sched_forbids_unsafe_code() -> None:
    assert re.search(r"^#!\[forbid\(unsafe_code\)\]$", (CRATES / "sched" / "src" / "lib.rs").read_text(), re.MULTILINE)


def test_only_tstate_knows_the_offsets_of_the_thread_state() -> None:
    sources = (CRATES / "python" / "src").rglob("*.rs")
    assert {path.parent.name for path in sources if "offsets.rs" in path.read_text()} <= {"tstate"}


def repository_files() -> list[Path]:
    """Return the sources that belong to the project: tracked, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).splitlines()
    except (OSError, subprocess.CalledProcessError):  # an unpacked source archive, or no git
        folders = ("crates", "python", "tests")
        names = [str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*")]
    return [ROOT / name for name in names if Path(name).suffix in SOURCES and (ROOT / name).is_file()]


def test_no_file_is_longer_than_800_lines() -> None:
    lengths = {path: len(path.read_bytes().splitlines()) for path in repository_files()}
    too_long = {str(path.relative_to(ROOT)): count for path, count in lengths.items() if count > MAX_LINES}
    assert not too_long, "split these by subject"


def stub_names() -> set[str]:
    """Return the public names that the stub of the native module declares."""
    names: set[str] = set()
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def test_every_public_name_is_typed_documented_and_in_the_reference() -> None:
    import lissom
    from lissom import _core

    public = set(lissom.__all__)
    assert all(hasattr(lissom, name) for name in public), "imported at first use"
    assert public == {name for name in vars(lissom) if not name.startswith("_")} - modules_in(lissom) - {
        "TYPE_CHECKING"
    }
    native = {name for name in public if hasattr(_core, name)}
    assert not native - stub_names(), "missing in python/lissom/_core.pyi"
    assert not {name for name in public if not getattr(lissom, name).__doc__}, "without a docstring"
    text = REFERENCE.read_text()
    directive = r"^\.\. auto(?:function|class|exception|data|decorator):: {}$"
    assert not {name for name in public if not re.search(directive.format(name), text, re.MULTILINE)}, (
        "missing in docs/reference.rst"
    )


def modules_in(package: object) -> set[str]:
    """Return the names in a package that are modules of it."""
    return {name for name, value in vars(package).items() if type(value) is type(ast)}
