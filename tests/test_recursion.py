"""Deep recursion in a tasklet ends in `RecursionError` and never in a crash, at every stack size that can be set.

Each case runs in a process of its own, in a tasklet, and then once more in another tasklet on the same, warm stack. A
case may also succeed: on a large stack the limit may not be reached. Then its answer has to be right.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

# The smallest that may be set, the default, and larger ones.
SIZES = ["128K", None, "1M", "8M"]

CASES = {
    "python functions": """
        def down(n):
            return 0 if n == 0 else 1 + down(n - 1)
        case = lambda: down(200_000)
    """,
    "methods and keyword arguments": """
        class Thing:
            def down(self, *args, n, **kwargs):
                return 0 if n == 0 else self.down(*args, n=n - 1, **kwargs)
        case = lambda: Thing().down(1, 2, n=200_000, other=3)
    """,
    "getattr chain": """
        class Thing:
            def __getattr__(self, name):
                return getattr(self, name + "x"[:0])
        case = lambda: Thing().missing
    """,
    "getattribute through super": """
        class Thing:
            def __getattribute__(self, name):
                return self.other
        case = lambda: Thing().thing
    """,
    "property": """
        class Thing:
            @property
            def value(self):
                return self.value
        case = lambda: Thing().value
    """,
    "call slots": """
        class Thing:
            def __call__(self, *args):
                return self(*args)
        case = lambda: Thing()(1)
    """,
    "operators": """
        class Thing:
            def __add__(self, other):
                return self + other
        case = lambda: Thing() + 1
    """,
    "comparison": """
        class Thing:
            def __eq__(self, other):
                return self == other
            __hash__ = None
        case = lambda: Thing() == 1
    """,
    "lists compared": """
        left, right = [], []
        for _ in range(100_000):
            left, right = [left], [right]
        case = lambda: left == right
    """,
    "repr of nested lists": """
        nested = []
        for _ in range(100_000):
            nested = [nested]
        case = lambda: repr(nested)
    """,
    "repr of nested dicts and tuples": """
        nested = {}
        for _ in range(50_000):
            nested = {"key": (nested,)}
        case = lambda: repr(nested)
    """,
    "repr of objects": """
        class Thing:
            def __repr__(self):
                return f"<{self!r}>"
        case = lambda: repr(Thing())
    """,
    "str, format and percent": """
        class Thing:
            def __str__(self):
                return "%s" % "{}".format(self)
        case = lambda: str(Thing())
    """,
    "hash of tuples": """
        class Thing:
            def __hash__(self):
                return hash((self,))
        case = lambda: hash(Thing())
    """,
    "json encoder": """
        import json
        nested = []
        for _ in range(100_000):
            nested = [{"key": nested}]
        case = lambda: json.dumps(nested, check_circular=False)
    """,
    "json decoder": """
        import json
        case = lambda: json.loads("[" * 100_000 + "]" * 100_000)
    """,
    "json decoder of objects": """
        import json
        case = lambda: json.loads('{"a":' * 100_000 + "1" + "}" * 100_000)
    """,
    "json default function": """
        import json
        class Thing:
            pass
        def default(thing):
            return [thing]
        case = lambda: json.dumps(Thing(), default=default, check_circular=False)
    """,
    "pickle": """
        import pickle
        nested = []
        for _ in range(100_000):
            nested = [nested]
        case = lambda: pickle.dumps(nested)
    """,
    "pickle of objects": """
        import pickle
        class Thing:
            def __init__(self, inner):
                self.inner = inner
        nested = None
        for _ in range(50_000):
            nested = Thing(nested)
        case = lambda: pickle.dumps(nested)
    """,
    "pickle reduce": """
        import pickle
        class Thing:
            def __reduce__(self):
                return Thing, (Thing(),)
        case = lambda: pickle.dumps(Thing())
    """,
    "marshal": """
        import marshal
        nested = []
        for _ in range(3000):
            nested = [nested]
        case = lambda: marshal.loads(marshal.dumps(nested))
    """,
    "deepcopy": """
        import copy
        nested = []
        for _ in range(100_000):
            nested = [nested]
        case = lambda: copy.deepcopy(nested)
    """,
    "deepcopy of objects": """
        import copy
        class Thing:
            pass
        nested = None
        for _ in range(50_000):
            thing = Thing()
            thing.inner = nested
            nested = thing
        case = lambda: copy.deepcopy(nested)
    """,
    "generators": """
        def nested(n):
            if n:
                yield from nested(n - 1)
            yield n
        case = lambda: list(nested(100_000))
    """,
    "generators by for": """
        def nested(n):
            if n:
                for item in nested(n - 1):
                    yield item
            yield n
        case = lambda: next(nested(100_000))
    """,
    "chained iterators": """
        iterator = iter([1])
        for _ in range(100_000):
            iterator = map(int, iterator)
        keep = iterator
        case = lambda: next(keep)
    """,
    "coroutines": """
        async def nested(n):
            return await nested(n + 1)
        def case():
            nested(0).send(None)
    """,
    "sort key": """
        def key(item):
            return sorted([item], key=key)
        case = lambda: key(1)
    """,
    "map and lambda": """
        down = lambda n: list(map(down, [n + 1]))
        case = lambda: down(0)
    """,
    "functools": """
        import functools
        @functools.lru_cache(None)
        def cached(n):
            return cached(n + 1)
        case = lambda: cached(0)
    """,
    "partial": """
        import functools
        def down(n):
            return functools.partial(down, n + 1)()
        case = lambda: down(0)
    """,
    "reduce": """
        import functools
        def down(a, b):
            return functools.reduce(down, [a, b])
        case = lambda: down(1, 2)
    """,
    "import": """
        import importlib.abc, sys
        class Finder(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.startswith("nested"):
                    __import__(name + "x")
        sys.meta_path.insert(0, Finder())
        case = lambda: __import__("nested")
    """,
    "exec and eval": """
        def down(n):
            return eval("down(n + 1)")
        case = lambda: down(0)
    """,
    "compile of nested source": """
        case = lambda: eval("(" * 150 + "1" + ")" * 150), eval("-" * 20_000 + "1")
    """,
    "compile of a nested tree": """
        import ast
        tree = ast.Expression(ast.Constant(1))
        for _ in range(50_000):
            tree.body = ast.UnaryOp(ast.USub(), tree.body)
        case = lambda: compile(ast.fix_missing_locations(tree), "", "eval")
    """,
    "ast to source": """
        import ast
        case = lambda: ast.unparse(ast.parse("a" + ".b" * 3000))
    """,
    "regular expression": """
        import re
        case = lambda: re.compile("(" * 20_000 + "a" + ")" * 20_000)
    """,
    "isinstance and subclass hooks": """
        class Meta(type):
            def __instancecheck__(cls, thing):
                return isinstance(thing, cls)
        class Thing(metaclass=Meta):
            pass
        case = lambda: isinstance(1, Thing)
    """,
    "isinstance of nested tuples": """
        kinds = int
        for _ in range(100_000):
            kinds = (kinds,)
        case = lambda: isinstance("", kinds)
    """,
    "descriptors": """
        class Descriptor:
            def __get__(self, thing, kind=None):
                return thing.value
        class Thing:
            value = Descriptor()
        case = lambda: Thing().value
    """,
    "context managers": """
        import contextlib
        @contextlib.contextmanager
        def nested():
            with nested():
                yield
        def case():
            with nested():
                pass
    """,
    "exceptions chained": """
        def down(n):
            try:
                raise ValueError(n)
            except ValueError:
                return down(n + 1)
        case = lambda: down(0)
    """,
    "exception hooks of finally": """
        def down():
            try:
                down()
            finally:
                down()
        def case():
            import sys
            limit = sys.getrecursionlimit()
            def down(n):
                try:
                    return down(n + 1)
                finally:
                    len("x")
            down(0)
    """,
    "deallocation": """
        nested = []
        for _ in range(1_000_000):
            nested = [nested]
        def case():
            global nested
            nested = None
            raise RecursionError
    """,
    "deallocation of objects": """
        class Thing:
            pass
        def case():
            nested = None
            for _ in range(200_000):
                thing = Thing()
                thing.inner = nested
                nested = thing
            del thing, nested
            raise RecursionError
    """,
    "deallocation of generators and frames": """
        def generator(inner):
            yield
            inner
        def case():
            nested = None
            for _ in range(100_000):
                nested = generator(nested)
                next(nested)
            del nested
            raise RecursionError
    """,
    "finalisers": """
        class Thing:
            def __del__(self):
                self.inner = None
        def case():
            nested = None
            for _ in range(100_000):
                thing = Thing()
                thing.inner = nested
                nested = thing
            del thing, nested
            raise RecursionError
    """,
    "xml": """
        import xml.etree.ElementTree as tree
        case = lambda: tree.tostring(tree.fromstring("<a>" * 20_000 + "</a>" * 20_000))
    """,
    "weak references": """
        import weakref
        class Thing:
            pass
        def down(n):
            thing = Thing()
            reference = weakref.ref(thing, lambda _: down(n + 1))
            del thing
            if n > 100_000:
                raise RecursionError
        def case():
            down(0)
            raise RecursionError
    """,
    "audit and trace functions": """
        import sys
        def trace(frame, event, arg):
            return trace
        def case():
            sys.settrace(trace)
            def down(n):
                return down(n + 1)
            try:
                down(0)
            finally:
                sys.settrace(None)
    """,
    "ctypes callbacks": """
        import ctypes
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
        def down(n):
            if n >= 30:
                return n
            return callback(n + 1)
        callback = kind(down)
        def case():
            assert callback(0) == 30
            raise RecursionError
    """,
    "printing a deep traceback": """
        import traceback
        def down(n):
            return down(n + 1)
        def case():
            try:
                down(0)
            except RecursionError:
                assert "RecursionError" in traceback.format_exc()
                raise
    """,
}

RUN = """
def run(case):
    try:
        case()
    except RecursionError:
        return "RecursionError"
    except MemoryError as error:  # the parser's own limit
        return f"MemoryError {error}"
    return "done"

import lissom
print(lissom.join(lissom.spawn(run, case)))
print(lissom.join(lissom.spawn(run, case)))
print(lissom.join(lissom.spawn(lambda: sum(range(10)))))
"""


def run(script: Script, source: str, size: str | None, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a case at a stack size and recursion limit; return what it printed."""
    import textwrap

    if size is None:
        monkeypatch.delenv("LISSOM_STACK_SIZE", raising=False)
    else:
        monkeypatch.setenv("LISSOM_STACK_SIZE", size)
    head = f"import sys; sys.setrecursionlimit({limit})\n" if limit else ""
    return script(head + textwrap.dedent(source) + RUN, dev=False).stdout


@pytest.mark.parametrize("size", SIZES, ids=["smallest", "default", "1M", "8M"])
@pytest.mark.parametrize("case", CASES)
def test_ends_in_recursion_error(
    script: Script, monkeypatch: pytest.MonkeyPatch, case: str, size: str | None
) -> None:
    first, second, after = run(script, CASES[case], size, None, monkeypatch).splitlines()
    assert first.split()[0] in {"RecursionError", "MemoryError", "done"}
    assert second.split()[0] in {"RecursionError", "MemoryError", "done"}
    assert after == "45"


@pytest.mark.parametrize("size", ["128K", None], ids=["smallest", "default"])
@pytest.mark.parametrize(
    "case", ["python functions", "getattr chain", "operators", "repr of objects", "json encoder", "pickle", "generators",
             "sort key", "reduce", "deepcopy", "exec and eval", "context managers"]
)
def test_recursion_limit_raised_by_the_program_does_not_matter(
    script: Script, monkeypatch: pytest.MonkeyPatch, case: str, size: str | None
) -> None:
    if sys.version_info < (3, 12) and size is None:
        monkeypatch.setenv("LISSOM_STACK_SIZE", "1M")
    *_, after = run(script, CASES[case], size, 1_000_000, monkeypatch).splitlines()
    assert after == "45"


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
        def work():
            nested = []
            for _ in range(100):
                nested = [nested]
            assert down(900) == 900
            assert Thing().x == 0
            assert json.loads(json.dumps(nested)) == nested == pickle.loads(pickle.dumps(nested)) == copy.deepcopy(nested)
            return len(repr(nested))
        print(lissom.join(lissom.spawn(work)))
        """
    )
    assert done.stdout == "202\n"
