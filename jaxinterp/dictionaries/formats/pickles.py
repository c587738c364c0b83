"""Pickles of plain containers, read without running anything that is in them.

A pickle is a program for a small stack machine. Python's own machine imports and calls what the
program names. The one here knows the operations that containers need and no others: a name stands
for a rule that the caller gives, or the program is refused before the next operation; nothing is
imported, and no object gets attributes.
"""

import io
import pickletools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """A global that a program mentions."""

    module: str
    name: str


_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE"),
}

_OTHERS = {
    *("PROTO", "FRAME", "MARK", "STOP", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET"),
    *("LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "TUPLE", "APPEND", "APPENDS", "SETITEM"),
    *("SETITEMS", "BINPERSID", "REDUCE", "BUILD"),
}
_KNOWN = _OTHERS | _LITERALS | set(_CONSTANTS) | set(_EMPTY) | set(_TUPLES)
_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}


def run(
    program: bytes,
    calls: Mapping[Name, Callable[..., Any]],
    names: Collection[Name] = (),
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """What a pickle makes.

    Args:
        program: the pickle, of protocol 2 or later.
        calls: the names that it may call, and what is done in place of each. What that raises
            besides ValueError, for arguments that do not fit, is TypeError.
        names: names that it may only mention: they come out as `Name`.
        persistent: what a persistent id stands for; None if there are none.

    Raises:
        ValueError: it is damaged, or asks for a name or an operation that is not allowed.
    """
    known = {*calls, *names}
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for name, argument in _operations(program):
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = _top(stack, object)
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise ValueError(f"it refers to object {argument}, which it does not have")
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_allowed(known, *argument))
        elif name == "STACK_GLOBAL":
            module, attribute = _pop(stack, 2)
            stack.append(_allowed(known, module, attribute))
        elif name in _TUPLES:
            stack.append(tuple(_pop(stack, _TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name in ("APPEND", "APPENDS"):
            items = _pop(stack, 1) if name == "APPEND" else _pop_to_mark(stack)
            _top(stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = _pop(stack, 2) if name == "SETITEM" else _pop_to_mark(stack)
            if len(items) % 2:
                raise ValueError("the pickle has a key without a value")
            pairs = zip(items[::2], items[1::2], strict=True)
            _top(stack, dict).update((_hashable(key), value) for key, value in pairs)
        elif name == "BINPERSID":
            if persistent is None:
                raise ValueError("the pickle has persistent ids")
            stack.append(persistent(_pop(stack, 1)[0]))
        elif name == "REDUCE":
            function, arguments = _pop(stack, 2)
            if not (isinstance(function, Name) and function in calls):
                raise ValueError("it calls something that is not a function")
            if not isinstance(arguments, tuple):
                raise ValueError(f"it calls {function.name} without a tuple of arguments")
            try:
                stack.append(calls[function](*arguments))
            except TypeError as error:
                raise ValueError(f"it calls {function.name} wrongly: {error}") from error
        elif name == "BUILD":
            # A state dict carries the versions of its modules as an attribute: left out.
            state = _pop(stack, 1)[0]
            if not isinstance(state, dict) or set(state) - {"_metadata"}:
                raise ValueError("it gives an object attributes")
            _top(stack, dict)
        elif name == "STOP":
            if len(stack) != 1:
                raise ValueError(f"the pickle ends with {len(stack)} objects")
            return stack[0]
    raise ValueError("the pickle has no end")


def _operations(program: bytes) -> Iterator[tuple[str, Any]]:
    """The operations with their arguments, of which only those of known ones are decoded."""
    stream = io.BytesIO(program)
    while code := stream.read(1):
        operation = _OPERATIONS.get(code)
        name = operation.name if operation else repr(code)
        if operation is None or name not in _KNOWN:
            raise ValueError(f"the pickle has the operation {name}, which no plain container needs")
        if name == "GLOBAL":
            yield name, [stream.readline().decode().removesuffix("\n") for _ in range(2)]
            continue
        argument = operation.arg.reader(stream) if operation.arg else None
        if name not in ("PROTO", "FRAME"):
            yield name, argument


def _allowed(known: Collection[Name], module: Any, name: Any) -> Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("it asks for something whose name is no string")
    if Name(module, name) not in known:
        raise ValueError(
            f"it asks for {f'{module[:80]}.{name[:80]}'!r}; only tensors and plain containers are "
            "read, and nothing was run"
        )
    return Name(module, name)


def _pop(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count or any(item is _MARK for item in items):
        raise ValueError("the pickle takes more than there is")
    del stack[-count:]
    return items


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    at = next((i for i in reversed(range(len(stack))) if stack[i] is _MARK), None)
    if at is None:
        raise ValueError("the pickle takes more than there is")
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _top(stack: list[Any], kind: type) -> Any:
    if not stack or not isinstance(stack[-1], kind):
        raise ValueError(f"the pickle fills something that is no {kind.__name__}")
    if stack[-1] is _MARK:
        raise ValueError("the pickle takes more than there is")
    return stack[-1]


def _hashable(value: Any) -> str | int | float | None:
    """A value that may be a key of a dict."""
    # To hash a tuple that is deep, or that shares its parts, can take the C stack or for ever.
    if not isinstance(value, str | int | float | None):
        raise ValueError(f"a {type(value).__name__} is a key")
    return value
