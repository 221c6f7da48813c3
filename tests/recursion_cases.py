"""Recursions through Python and C, each run in a tasklet; `test_recursion.py` starts this as a program of its own.

    python recursion_cases.py [recursion limit]

Prints the name of each case before it starts and how it ended after that, so that a crash shows where it was.
"""

from __future__ import annotations

import ast
import bisect
import contextlib
import copy
import ctypes
import functools
import io
import itertools
import json
import marshal
import operator
import os
import pickle
import re
import struct
import sys
import traceback
import weakref
import xml.etree.ElementTree as tree
from typing import TYPE_CHECKING, Any

import lissom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Deeper than any stack goes.
DEEP = 20_000

CASES: dict[str, Callable[[], object]] = {}


def case(function: Callable[[], object]) -> Callable[[], object]:
    """Add a case."""
    CASES[function.__name__] = function
    return function


def instance(**methods: object) -> Any:
    """Return an object with these special methods."""
    return type("Thing", (), methods)()


def nested(depth: int = DEEP) -> list[Any]:
    """Return a list in a list in a list ..."""
    result: list[Any] = []
    for _ in range(depth):
        result = [result]
    return result


# ---- Python code -----------------------------------------------------------------------------------------------------


@case
def python_functions() -> object:
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    return down(DEEP)


@case
def keyword_arguments() -> object:
    def down(*args: object, n: int, **kwargs: object) -> object:
        return 0 if n == 0 else down(*args, n=n - 1, **kwargs)

    return down(1, 2, n=DEEP, other=3)


@case
def exceptions_chained() -> object:
    def down(n: int) -> object:
        try:
            raise ValueError(n)
        except ValueError:
            return down(n + 1) if n < 5000 else None  # a chain is walked whenever it grows

    return down(0)


@case
def finally_blocks() -> object:
    def down(n: int) -> object:
        try:
            return down(n + 1) if n < DEEP else None
        finally:
            len("x")

    return down(0)


@case
def generators_delegating() -> object:
    def down(n: int) -> Iterator[int]:
        if n:
            yield from down(n - 1)
        yield n

    return next(down(DEEP))


@case
def generators_looping() -> object:
    def down(n: int) -> Iterator[int]:
        if n:
            for item in down(n - 1):  # noqa: UP028 (another way through the interpreter than "yield from")
                yield item
        yield n

    return next(down(DEEP))


@case
def coroutines() -> object:
    async def down(n: int) -> object:
        return await down(n + 1) if n < DEEP else None

    with contextlib.suppress(StopIteration):
        return down(0).send(None)


@case
def context_managers() -> object:
    @contextlib.contextmanager
    def down(n: int) -> Iterator[None]:
        with down(n + 1):
            yield

    with down(0):
        pass


@case
def traced_functions() -> object:
    def trace(frame: object, event: str, arg: object) -> object:
        return trace

    sys.settrace(trace)
    try:
        return python_functions()
    finally:
        sys.settrace(None)


@case
def traceback_of_a_deep_stack() -> object:
    try:
        return python_functions()
    except RecursionError:
        assert "RecursionError" in traceback.format_exc()
        raise


# ---- special methods -------------------------------------------------------------------------------------------------


@case
def getattr_chain() -> object:
    return instance(__getattr__=lambda self, name: getattr(self, name + "x"[:0])).missing


@case
def getattribute() -> object:
    return instance(__getattribute__=lambda self, name: self.other).thing


@case
def setattribute() -> object:
    thing = instance(__setattr__=lambda self, name, value: setattr(self, name, value))
    thing.name = 1


@case
def properties() -> object:
    return instance(value=property(lambda self: self.value)).value


@case
def descriptors() -> object:
    return instance(value=instance(__get__=lambda self, thing, kind: thing.value)).value


@case
def calls() -> object:
    return instance(__call__=lambda self, *args: self(*args))(1)


@case
def constructors() -> object:
    class Thing:
        def __new__(cls, *args: object) -> Any:
            return Thing(*args)

    return Thing(1)


@case
def operators() -> object:
    return instance(__add__=lambda self, other: self + other) + 1


@case
def comparisons() -> object:
    return instance(__eq__=lambda self, other: self == other) == 1


@case
def hashes() -> object:
    return hash(instance(__hash__=lambda self: hash((self,))))


@case
def representations() -> object:
    return repr(instance(__repr__=lambda self: f"<{self!r}>"))


@case
def formats() -> object:
    return str(instance(__str__=lambda self: "%s" % "{}".format(self)))  # noqa: UP031, UP032


@case
def indexes() -> object:
    return struct.pack("i", instance(__index__=lambda self: struct.pack("i", self)))


@case
def instance_checks() -> object:
    meta = type("Meta", (type,), {"__instancecheck__": lambda cls, thing: isinstance(thing, cls)})
    return isinstance(1, meta("Thing", (), {}))


@case
def paths() -> object:
    return os.stat(instance(__fspath__=lambda self: os.stat(self)))  # noqa: PTH116


# ---- functions in C that call back -----------------------------------------------------------------------------------


@case
def sort_by_key() -> object:
    """The largest frame in C per level that was found."""

    def key(item: object) -> object:
        return [item].sort(key=key)

    return key(1)


@case
def sort_by_comparison() -> object:
    class Thing:
        def __lt__(self, other: object) -> bool:
            return bool(sorted([Thing(), Thing()]))

    return sorted([Thing(), Thing()])


@case
def bisection() -> object:
    def key(item: object) -> int:
        return bisect.bisect([1], 1, key=key)

    return key(1)


@case
def map_and_lambda() -> object:
    def down(n: int) -> object:
        return list(map(down, [n + 1]))

    return down(0)


@case
def starmap_and_accumulate() -> object:
    def down(*args: int) -> object:
        return list(itertools.accumulate(itertools.starmap(down, [args]), func=down))

    return down(1, 2)


@case
def caches() -> object:
    @functools.cache
    def down(n: int) -> object:
        return down(n + 1)

    return down(0)


@case
def partial_functions() -> object:
    def down(n: int) -> object:
        return functools.partial(down, n + 1)()

    return down(0)


@case
def reductions() -> object:
    def down(a: object, b: object) -> object:
        return functools.reduce(down, [a, b])

    return down(1, 2)


@case
def attribute_getters() -> object:
    return instance(value=property(lambda self: operator.attrgetter("value")(self))).value


@case
def substitutions() -> object:
    def down(match: object) -> str:
        return re.sub("a", down, "a")

    return down(None)


@case
def codec_error_handlers() -> object:
    import codecs

    codecs.register_error("down", lambda error: ("\u1234".encode("ascii", "down"), 1))
    return "\u1234".encode("ascii", "down")


@case
def source_code() -> object:
    def down(n: int) -> object:
        return eval("down(n + 1)", {"down": down, "n": n})

    return down(0)


@case
def imports() -> object:
    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name.startswith("nested_module"):
                __import__(name + "x")

    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
    try:
        return __import__("nested_module")
    finally:
        sys.meta_path.remove(Finder)  # type: ignore[arg-type]


@case
def callbacks_of_ctypes() -> object:
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

    @kind
    def callback(n: int) -> int:
        return callback(n + 1) if n < 10 else n

    assert callback(0) == 10


@case
def xml_targets() -> object:
    class Target:
        def start(self, *_: object) -> None:
            tree.XML("<a/>", tree.XMLParser(target=Target()))  # type: ignore[arg-type]

        def close(self) -> None:
            """Nothing to do."""

    return Target().start()


@case
def streams() -> object:
    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> object:  # type: ignore[override]
            return io.TextIOWrapper(io.BufferedReader(Raw())).readline()

    return Raw().readinto(b"")


@case
def printing() -> object:
    thing = instance(write=lambda self, text: print(text, file=self))
    print("x", file=thing)


# ---- nested data -----------------------------------------------------------------------------------------------------


@case
def repr_of_lists() -> object:
    return repr(nested())


@case
def lists_compared() -> object:
    return nested() == nested()


@case
def json_encoder() -> object:
    return json.dumps(nested(), check_circular=False)


@case
def json_decoder() -> object:
    return json.loads('[{"a":' * DEEP + "1" + "}]" * DEEP)


@case
def json_default() -> object:
    return json.dumps(object(), default=lambda thing: [thing], check_circular=False)


@case
def pickle_of_lists() -> object:
    return pickle.dumps(nested())


@case
def pickle_of_objects() -> object:
    return pickle.dumps(Linked.chain())


@case
def pickle_reducers() -> object:
    return pickle.dumps(Reduced())


@case
def marshalled() -> object:
    with contextlib.suppress(ValueError):  # it has a limit of its own
        return marshal.dumps(nested())


@case
def deepcopy_of_lists() -> object:
    return copy.deepcopy(nested())


@case
def deepcopy_of_objects() -> object:
    return copy.deepcopy(Linked.chain())


@case
def parsing_parentheses() -> object:
    return eval("(" * 150 + "1" + ")" * 150)


@case
def parsing_operators() -> object:
    return eval("not " * DEEP + "1")


@case
def parsing_lambdas() -> object:
    return eval("lambda:" * 5000 + "1")


@case
def compiling_attributes() -> object:
    return compile("a" + ".b" * 10_000, "", "eval")


@case
def compiling_a_tree() -> object:
    body: ast.expr = ast.Constant(1)
    for _ in range(DEEP):
        body = ast.UnaryOp(ast.USub(), body)
    return compile(ast.fix_missing_locations(ast.Expression(body)), "", "eval")


@case
def regular_expressions() -> object:
    return re.compile("(" * 5000 + "a" + ")" * 5000)


@case
def xml_elements() -> object:
    return tree.tostring(tree.fromstring("<a>" * 5000 + "</a>" * 5000))


class Linked:
    """One of a chain of objects."""

    inner: Linked | None = None

    @classmethod
    def chain(cls) -> Linked:
        first = cls()
        for _ in range(DEEP):
            outer = cls()
            outer.inner, first = first, outer
        return first


class Finalised(Linked):
    """One that has a finaliser."""

    def __del__(self) -> None:
        self.inner = None


class Reduced:
    """One that pickles as a call with one of its kind."""

    def __reduce__(self) -> Any:
        return Reduced, (Reduced(),)


@case
def deallocation_of_lists() -> object:
    nested(200_000)


@case
def deallocation_of_objects() -> object:
    Linked.chain()


@case
def deallocation_with_finalisers() -> object:
    Finalised.chain()


@case
def deallocation_with_weak_references() -> object:
    def down(n: int) -> None:
        thing = Linked()
        kept.append(weakref.ref(thing, lambda _: down(n + 1) if n < DEEP else None))
        del thing

    kept: list[object] = []
    with contextlib.suppress(RecursionError):
        down(0)


@case
def select_at_the_bottom() -> object:
    """Functions in C with large frames, called where hardly any stack is left."""
    import select
    import time

    def down() -> object:
        select.select([], [], [], 0)
        time.strftime("%c")
        f"{1e300:f}"
        return sorted(map(lambda _: down(), [1]))  # noqa: C417 (through C)

    return down()


# ----------------------------------------------------------------------------------------------------------------------


def outcome(function: Callable[[], object]) -> str:
    """Return how the function ended, in a word."""
    try:
        function()
    except RecursionError:
        return "RecursionError"
    except MemoryError:  # the parser's own limit
        return "MemoryError"
    return "done"


def main() -> None:
    """Run every case twice, the second time on a stack that has been used before."""
    if len(sys.argv) > 1:
        sys.setrecursionlimit(int(sys.argv[1]))
    sys.unraisablehook = lambda _: None  # finalisers and callbacks that ended in RecursionError, each with a line
    for name, function in CASES.items():
        print(name, end=" ", flush=True)
        first, second = (lissom.join(lissom.spawn(outcome, function)) for _ in range(2))
        print(first, second, lissom.join(lissom.spawn(sum, range(10))), flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main()
