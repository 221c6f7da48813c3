"""Storage of which every tasklet has its own."""

from __future__ import annotations

from typing import Any, Self
from weakref import WeakKeyDictionary

from lissom._core import getcurrent, tasklet

_MISSING = object()


class local:
    """An object whose attributes every tasklet has for itself.

    Used as ``threading.local``: subclass it to give each tasklet initial values, for ``__init__`` is called, with the
    arguments of the first call, in each tasklet that uses the object. What a tasklet has stored goes with it.

    Nothing here switches. After ``lissom.hook()`` a ``threading.local`` belongs to tasklets, too.
    """

    _tables: WeakKeyDictionary[tasklet, dict[str, Any]]
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Self:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError("Initialization arguments are not supported")
        self = object.__new__(cls)
        object.__setattr__(self, "_tables", WeakKeyDictionary())
        object.__setattr__(self, "_arguments", (args, kwargs))
        # The caller's own table is there before __init__ is called.
        object.__getattribute__(self, "_tables")[getcurrent()] = {}
        return self

    def __getattribute__(self, name: str) -> Any:
        table = _table(self)
        if name == "__dict__":
            return table
        value = table.get(name, _MISSING)
        if value is _MISSING or hasattr(getattr(type(self), name, None), "__set__"):
            return object.__getattribute__(self, name)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        if hasattr(getattr(type(self), name, None), "__set__"):
            object.__setattr__(self, name, value)
        else:
            _table(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if hasattr(getattr(type(self), name, None), "__delete__"):
            object.__delattr__(self, name)
            return
        try:
            del _table(self)[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None


def _table(self: local) -> dict[str, Any]:
    """Return the calling tasklet's values, made by ``__init__`` at first use."""
    tables: WeakKeyDictionary[tasklet, dict[str, Any]] = object.__getattribute__(self, "_tables")
    me = getcurrent()
    try:
        return tables[me]
    except KeyError:
        table = tables[me] = {}
        args, kwargs = object.__getattribute__(self, "_arguments")
        type(self).__init__(self, *args, **kwargs)
        return table
