"""Reads pickles as data: nothing is imported, called or constructed.

A pickle is a program for a small stack machine. Python's unpickler runs it, and any step of it may
call any function. Here the machine is run on inert values: a global stays its name (`Global`), a
call stays the record of what would have been called (`Made`). The opcodes are those of
`pickletools`, which documents all protocols. Arrays are then rebuilt from such records by
`to_array`, with NumPy's plain number types only.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MAX_ELEMENTS = 2**26
"""Elements of one array; bounds and statistics of observations have far fewer."""
NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1", "f2", "f4", "f8"}
"""Types of array elements, as in a pickled `numpy.dtype`."""
KEYS = (str, bytes, int, float, bool, type(None))
DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""Errors of the machine, or of the values on its stack."""
MAX_PROBLEM = 120
"""Characters of an error that are shown: they may come from the pickle."""
MAX_NAME = 1024
"""Characters of a module or attribute."""
RECONSTRUCT = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class PickleError(ValueError):
    """The bytes are not a pickle, or one with opcodes that data does not need."""


class Global(NamedTuple):
    """A name that the pickle refers to, such as `torch.nn.modules.activation.Tanh`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Made:
    """An object that the unpickler would have made.

    Attributes:
        maker: the class or function, mostly a `Global`.
        arguments: its arguments.
        state: what `__setstate__` or `__dict__` would have received; None if nothing.
        items: what would have been appended or added.
        entries: what would have been set by key.
    """

    maker: Any
    arguments: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """The attributes that a plain object would have received."""
        return self.state if isinstance(self.state, dict) else {}


class _Mark:
    """Start of a group on the stack."""


def read_pickle(content: bytes) -> Any:
    """Reads the value of a pickle: plain data, with `Global` and `Made` for everything else.

    Raises:
        PickleError: it is not a pickle, or refers to objects outside of it.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except DAMAGE as error:
        raise PickleError(f"is not a pickle: {_short(error)}") from error
    raise PickleError("is not a pickle: it ends early")


def globals_of(content: bytes) -> list[Global]:
    """Every global that a pickle names, in order, each once; as far as it can be read."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
    except DAMAGE:
        pass
    return list(dict.fromkeys(machine.globals))


def to_array(value: Any) -> npt.NDArray[Any]:
    """Rebuilds a NumPy array or scalar of numbers from its record.

    Raises:
        PickleError: the record is of something else.
    """
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if not isinstance(value, Made) or not isinstance(value.maker, Global):
        raise PickleError("expected an array of numbers")
    module, name = value.maker
    try:
        if module in RECONSTRUCT and name == "_reconstruct":
            _, shape, dtype, fortran, data = value.state
            return _array(data, _dtype(dtype), shape, "F" if fortran else "C")
        if module in NUMERIC and name == "_frombuffer":
            data, dtype, shape, order = value.arguments
            return _array(data, _dtype(dtype), shape, order)
        if module in RECONSTRUCT and name == "scalar":
            dtype, data = value.arguments
            return _array(data, _dtype(dtype), (), "C")
    except PickleError:
        raise
    except DAMAGE as error:
        raise PickleError(f"expected an array of numbers: {_short(error)}") from error
    raise PickleError(f"expected an array of numbers, found {str(value.maker)[:MAX_PROBLEM]}")


def dtype_name(value: Any) -> str:
    """The name of a pickled `numpy.dtype`, such as `float32`.

    Raises:
        PickleError: it is something else.
    """
    return _dtype(value).name


def _dtype(value: Any) -> np.dtype[Any]:
    if isinstance(value, Global):  # gym stored the scalar type
        value = value.name.rstrip("_")
        names = {np.dtype(code).name: code for code in NUMBERS}
        if value in names:
            return np.dtype(names[value])
        raise PickleError(f"expected a type of numbers, found {value[:64]}")
    if not isinstance(value, Made) or value.maker != Global("numpy", "dtype"):
        raise PickleError("expected a numpy.dtype")
    code = value.arguments[0]
    if not isinstance(code, str):
        raise PickleError(f"expected a type of numbers, found a {type(code).__name__}")
    if code not in NUMBERS:
        raise PickleError(f"expected a type of numbers, found {code[:32]}")
    order: Any = value.state[1] if value.state else "|"
    order = order if order in ("<", ">") else "="
    made: np.dtype[Any] = np.dtype(code).newbyteorder(order)
    return made


def _array(data: Any, dtype: np.dtype[Any], shape: Any, order: str) -> npt.NDArray[Any]:
    if isinstance(data, str):  # protocols before 3 store bytes as text
        data = data.encode("latin-1")
    if isinstance(data, Made):  # and protocol 2 as a call of codecs.encode
        text = data.arguments[0]
        data = text.encode("latin-1") if isinstance(text, str) else None
    if not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise PickleError("expected an array of numbers")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise PickleError("expected an array of numbers, found a shape of something else")
    count = math.prod(shape)
    if count > MAX_ELEMENTS or count * dtype.itemsize != len(data):
        raise PickleError(f"an array of shape {str(shape)[:64]} has {len(data)} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(dtype.newbyteorder("="))


class _Machine:
    """The stack machine of a pickle, on inert values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.globals: list[Global] = []

    def pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise PickleError("is not a pickle: a group is not closed")
        return value

    def pop_group(self) -> list[Any]:
        group: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            group.append(value)
        return group[::-1]

    def step(self, name: str, argument: Any) -> None:
        """Runs one opcode.

        Raises:
            PickleError: it is unknown, or refers to objects outside of the pickle.
        """
        stack = self.stack
        if name in LITERALS:
            stack.append(LITERALS[name])
        elif name in ARGUMENTS:
            stack.append(argument)
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in IGNORED:
            return
        elif name == "MARK":
            stack.append(_Mark())
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.pop_group()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self.find(name, argument)
        elif not (self.collect(name) or self.make(name, argument)):
            raise PickleError(f"has the opcode {name}, which refers to objects outside of it")

    def find(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
        else:
            attribute, module = self.pop(), self.pop()
        found = _global(module, attribute)
        self.globals.append(found)
        self.stack.append(found)

    def collect(self, name: str) -> bool:
        """Runs an opcode that makes or fills a collection; False if it is none."""
        stack = self.stack
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            values = [self.pop() for _ in range(size)]
            stack.append(tuple(values[::-1]))
        elif name == "TUPLE":
            stack.append(tuple(self.pop_group()))
        elif name in ("LIST", "FROZENSET"):
            stack.append(self.pop_group())
        elif name == "DICT":
            stack.append(dict(_pairs(self.pop_group())))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [self.pop()] if name == "APPEND" else self.pop_group()
            target = stack[-1]
            (target.items if isinstance(target, Made) else target).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_group()
            target = stack[-1]
            (target.entries if isinstance(target, Made) else target).update(_pairs(values))
        else:
            return False
        return True

    def make(self, name: str, argument: Any) -> bool:
        """Runs an opcode that would construct an object; False if it is none."""
        if name in ("REDUCE", "NEWOBJ"):
            arguments, maker = self.pop(), self.pop()
            self.stack.append(Made(maker, arguments))
        elif name == "NEWOBJ_EX":
            keywords, arguments, maker = self.pop(), self.pop(), self.pop()
            if not isinstance(keywords, dict):
                raise PickleError("is not a pickle: keyword arguments are not a dict")
            self.stack.append(Made(maker, arguments, entries=dict(keywords)))
        elif name == "OBJ":
            maker, *arguments = self.pop_group()
            self.stack.append(Made(maker, tuple(arguments)))
        elif name == "INST":
            module, _, attribute = argument.partition(" ")
            found = _global(module, attribute)
            self.globals.append(found)
            self.stack.append(Made(found, tuple(self.pop_group())))
        elif name == "BUILD":
            state, target = self.pop(), self.stack[-1]
            if isinstance(target, Made):
                target.state = state
        elif name in ("PERSID", "BINPERSID"):
            reference = self.pop() if name == "BINPERSID" else argument
            self.stack.append(Made("persistent", reference))
        else:
            return False
        return True


LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
ARGUMENTS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
"""Opcodes that push their argument."""
EMPTY: dict[str, Any] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
IGNORED = frozenset(("PROTO", "FRAME", "READONLY_BUFFER"))


def _global(module: Any, attribute: Any) -> Global:
    """A global of two names; other values may be nested too deeply to show, or to compare."""
    for name in (module, attribute):
        if not isinstance(name, str):
            raise PickleError(f"is not a pickle: a global is named by a {type(name).__name__}")
        if len(name) > MAX_NAME:
            raise PickleError(f"is not a pickle: a global has a name of {len(name):,} characters")
    return Global(module, attribute)


def _short(error: BaseException) -> str:
    """The first line of an error, bounded; errors of nested values do not say what they are."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if isinstance(error, KeyError):  # its text is the whole key
        return "it refers to what it has not stored"
    lines = str(error).splitlines()
    return lines[0][:MAX_PROBLEM] if lines else type(error).__name__


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Keys and values in turn; nested keys are refused, since hashing them could recurse."""
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, KEYS):
            raise PickleError(f"has a key of type {type(key).__name__}")
        yield key, value
