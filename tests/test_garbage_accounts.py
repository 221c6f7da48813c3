"""What the garbage collector sees of parked tasklets: no reference that they do not own, and all that nothing hides.

`random_programs.py` writes functions that park in the middle of everything; `garbage_accounts.py` runs them, for each
test in a process of its own, and keeps the accounts. For other programs than the tests':
``python tests/garbage_accounts.py accounts 1000 2000``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from conftest import Script

ACCOUNTS = str(Path(__file__).with_name("garbage_accounts.py"))


def assert_nothing_wrong(done: subprocess.CompletedProcess[str], least: int) -> None:
    """Check that nothing was found wrong, and that the programs have parked at least so often."""
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    *wrong, parks = done.stdout.splitlines()
    assert not wrong, "\n".join(wrong)
    count = re.fullmatch(r"(\d+) parks", parks)
    assert count is not None
    assert int(count[1]) >= least


def test_each_reference_is_seen_once_where_python_calls_python(script: Script) -> None:
    assert_nothing_wrong(script.python("-X", "dev", ACCOUNTS, "accounts", "0", "200"), 1500)


def test_no_reference_is_seen_that_is_not_owned_where_c_code_is_in_between(script: Script) -> None:
    assert_nothing_wrong(script.python("-X", "dev", ACCOUNTS, "accounts", "0", "250", "--through-c"), 2500)


WATCHED = ["traced", "profiled"] + ["monitored"] * (sys.version_info >= (3, 12))


@pytest.mark.parametrize("how", WATCHED)
def test_no_reference_is_seen_that_is_not_owned_between_any_two_instructions(script: Script, how: str) -> None:
    words = ["accounts", "0", "60", "--through-c", "--watched", how]
    assert_nothing_wrong(script.python("-X", "dev", ACCOUNTS, *words), 1000)


def test_program_that_is_forgotten_where_it_parks_is_collected_with_all_it_knows(script: Script) -> None:
    assert_nothing_wrong(script.python("-X", "dev", ACCOUNTS, "abandoned", "0", "300"), 500)


@pytest.mark.parametrize("through_c", [[], ["--through-c"]], ids=["python", "through_c"])
def test_programs_do_the_same_while_the_collector_runs_all_the_time(script: Script, through_c: list[str]) -> None:
    environment: dict[str, str | None] = {"PYTHONMALLOC": "debug"}
    words = ["-X", "dev", ACCOUNTS, "stress", "0", "100", *through_c]
    assert_nothing_wrong(script.python(*words, env=environment), 1000)
