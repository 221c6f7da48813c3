"""Deep recursion in a tasklet ends in `RecursionError` and never in a crash, at every stack size that can be set.

The recursions are in `recursion_cases.py`. One that is not deep enough for a large stack may also succeed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

CASES = Path(__file__).with_name("recursion_cases.py")
OUTCOMES = {"RecursionError", "MemoryError", "done"}


@pytest.fixture(params=["smallest", "default", "2M", "8M", "largest"])
def size(script: Script, request: pytest.FixtureRequest) -> str | None:
    """A value for ``LISSOM_STACK_SIZE``; None for the default."""
    if request.param == "default":
        return None
    if request.param in {"smallest", "largest"}:
        wrong = script.python("-m", "lissom", "-c", "", env={"LISSOM_STACK_SIZE": "5"})
        bounds = re.search(r"from (\w+) to (\w+)", wrong.stderr)
        assert bounds is not None
        return bounds[1 if request.param == "smallest" else 2]
    return str(request.param)


@pytest.mark.parametrize("limit", [None, 15_000], ids=["usual_limit", "raised_limit"])
def test_every_recursion_ends_in_recursion_error(script: Script, size: str | None, limit: int | None) -> None:
    words = [str(CASES)] if limit is None else [str(CASES), str(limit)]
    done = script.python(*words, env={"LISSOM_STACK_SIZE": size})
    *lines, end = done.stdout.splitlines()
    assert (end, done.returncode) == ("end", 0), f"crashed in {end}\n{done.stderr}"
    assert len(lines) > 50
    for line in lines:
        _, first, second, after = line.split()
        assert {first, second} <= OUTCOMES, line
        assert after == "45", line


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the parser looks at the stack from 3.14 on")
def test_parser_finds_room_at_the_deepest_level(script: Script, size: str | None) -> None:
    """Up to 3.13 the parser has a limit of its own, which does not know how much stack has been used before."""
    done = script.python(
        "-c",
        """if 1:
        import lissom
        deepest = []
        def down(n):
            try:
                return sorted(map(down, [n + 1]))  # through C
            except RecursionError:
                if not deepest:
                    deepest.append(n)
                    try:
                        eval("not " * 50_000 + "1")
                    except (MemoryError, RecursionError) as error:
                        deepest.append(type(error).__name__)
                raise
        def work():
            try:
                down(0)
            except RecursionError:
                print(len(deepest))
        lissom.join(lissom.spawn(work))
        """,
        env={"LISSOM_STACK_SIZE": size},
    )
    assert (done.returncode, done.stdout) == (0, "2\n")


def test_usual_depth_is_reached_on_the_default_stack(script: Script) -> None:
    """What works in a thread of the standard library works in a tasklet: a thousand calls, and nested data."""
    done = script(
        """
        import copy, json, lissom, pickle
        def down(n):
            return 0 if n == 0 else 1 + down(n - 1)
        class Thing:
            def __getattr__(self, name):
                return 0 if name == "x" * 100 else getattr(self, name + "x")
        def imports(n):
            return n and exec("imports(n - 1)", {"imports": imports, "n": n})
        def work():
            nested = []
            for _ in range(100):
                nested = [nested]
            assert down(900) == 900
            assert Thing().x == 0
            imports(100)
            assert json.loads(json.dumps(nested)) == nested == copy.deepcopy(nested)
            assert pickle.loads(pickle.dumps(nested)) == nested
            return len(repr(nested))
        print(lissom.join(lissom.spawn(work)))
        """
    )
    assert done.stdout == "202\n"
