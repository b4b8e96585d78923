"""Third-party code: loads what a specification names, and explains its exceptions.

An environment is code that is not slimq's. Whatever it raises becomes one line that names the place
in that code.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

import slimq
from slimq.core.errors import EnvironmentFailure, InvalidInputError, MissingExtraError, first_line
from slimq.core.errors import suggestion as suggest

FILE_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<name>[^:]+)", re.DOTALL)
MAX_MESSAGE = 300
"""Maximum number of characters shown of a third-party message."""
MAX_NAMES = 8
"""Maximum number of a file's names that are listed."""
_EXTRAS = {"minatar": "games", "minigrid": "games", "Box2D": "games", "cv2": "images"}
_CREATION = "creation"


@dataclass(frozen=True)
class Reference:
    """A name found in a file or a module.

    Attributes:
        target: the object that it names.
        folder: the file's folder; None for a module.
    """

    target: Any
    folder: Path | None = None

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Lets the code import its neighbours, as if it ran as a program."""
        with _importable(self.folder) if self.folder else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def guarded(environment: str, place: str, field: str) -> Iterator[None]:
    """Converts every exception of third-party code to an `EnvironmentFailure`."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise EnvironmentFailure(environment, place, field, explain(error)) from error


def explain(error: BaseException) -> str:
    """An exception on one line: its type, its message and the line that raised it."""
    error = _origin(error)
    kind = type(error).__name__
    message = "".join(_message(error).splitlines()[:1])
    text = kind if message in ("", kind) else f"{kind}: {message}"
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "…"
    where = foreign_line(error) or _last_line(error)
    return f"{text} ({where})" if where else text


def foreign_line(error: BaseException) -> str | None:
    """The last line executed outside slimq and its libraries, such as `game.py:12`, or None."""
    if isinstance(error, SyntaxError) and error.filename:
        return _place(error.filename, error.lineno)
    frames = traceback.extract_tb(_origin(error).__traceback__)
    foreign = [frame for frame in frames if not _is_ours(frame.filename)]
    return _place(foreign[-1].filename, foreign[-1].lineno) if foreign else None


def load(reference: str, environment: str, field: str) -> Reference:
    """Loads `FILE.py:name` or `module:name`.

    Args:
        reference: the reference, as in the specification.
        environment: the environment's id, for errors.
        field: the specification's field, for errors.

    Raises:
        InvalidInputError: there is no such file, module or name.
        EnvironmentFailure: the file or the module raises an exception.
    """
    file = FILE_REFERENCE.fullmatch(reference)
    if file:
        module = _load_file(Path(file["file"]), environment, field)
        found = find_attribute(module, file["name"])
        if found is None:
            raise _no_attribute(module, file["file"], file["name"], field)
        return Reference(found, Path(file["file"]).resolve().parent)
    name, colon, attribute = reference.partition(":")
    if not colon:
        raise InvalidInputError(field, "`FILE.py:name` or `module:name`", repr(reference))
    module = load_module(name, environment, field)
    found = find_attribute(module, attribute)
    if found is None:
        raise _no_attribute(module, name, attribute, field)
    return Reference(found)


def load_module(name: str, environment: str, field: str) -> ModuleType:
    """Imports a module.

    Raises:
        InvalidInputError: there is no such module, or it is one of Python's own.
        MissingExtraError: it belongs to an extra that is not installed.
        EnvironmentFailure: it raises an exception.
    """
    top = name.partition(".")[0]
    if not all(part.isidentifier() for part in name.split(".")):
        raise InvalidInputError(field, "the name of a module before the colon", repr(name))
    if top in sys.stdlib_module_names:
        raise InvalidInputError(field, "a module that is not Python's own", repr(name))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise EnvironmentFailure(environment, _CREATION, name, explain(error)) from error
        if top in _EXTRAS:
            raise MissingExtraError(top, _EXTRAS[top]) from error
        hint = f"; for a file, give {top}.py:NAME" if Path(f"{top}.py").exists() else ""
        raise InvalidInputError(field, "an installed module", repr(name), hint) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise EnvironmentFailure(environment, _CREATION, name, explain(error)) from error


def find_attribute(module: ModuleType, name: str) -> Any:
    """An attribute by its dotted name; None if there is none."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def defined_names(path: Path) -> str:
    """Lists the functions and classes that a file defines, without running it; empty if none."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [one.name for one in body if isinstance(one, kinds) and not one.name.startswith("_")]
    more = ", …" if len(names) > MAX_NAMES else ""
    return f"it defines {', '.join(names[:MAX_NAMES])}{more}" if names else ""


def missing_dependency(error: gymnasium.error.DependencyNotInstalled, field: str) -> Exception:
    """The error for a missing library that an environment or a wrapper of gymnasium needs."""
    message = first_line(error).lower()
    known = {"opencv": "cv2", "cv2": "cv2", "box2d": "Box2D", "pygame": "pygame"}
    for word, module in known.items():
        if word in message:
            return MissingExtraError(module, _EXTRAS.get(module, "games"))
    return InvalidInputError(field, "an installed library", first_line(error))


def _load_file(path: Path, environment: str, field: str) -> ModuleType:
    """Executes a file once per content."""
    try:
        source = path.read_bytes()
    except OSError as error:
        received = f"{path} ({error.strerror}) in {Path.cwd()}"
        raise InvalidInputError(field, "a file", received) from error
    path = path.resolve()
    # The name depends on the content, so that a changed file is loaded again.
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + source).hexdigest()[:16]
    name = f"_slimq_file_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise InvalidInputError(field, "a Python file", str(path))
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        with guarded(environment, _CREATION, path.name), _importable(path.parent):
            # Not by its loader, which reuses the bytecode of a file of the same size and second.
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    except EnvironmentFailure:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _no_attribute(module: ModuleType, place: str, name: str, field: str) -> InvalidInputError:
    names = [known for known in vars(module) if not known.startswith("_")]
    return InvalidInputError(
        field, f"a name that {place} defines", f"{name!r}{suggest(name, names)}"
    )


def _origin(error: BaseException) -> BaseException:
    """The original of an exception that gymnasium reraised with more text and without traceback."""
    cause = error.__cause__
    if cause is None or type(error) is not type(cause):
        return error
    return cause if _message(error).startswith(_message(cause)) else error


def _message(error: BaseException) -> str:
    """An exception's message, which third-party code formats, too."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""


def _last_line(error: BaseException) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(_folder(slimq))]
    return _place(outside[-1].filename, outside[-1].lineno) if outside else None


def _is_ours(file: str) -> bool:
    """Whether a file belongs to slimq, gymnasium, numpy or Python."""
    if file.startswith((_folder(slimq), _folder(gymnasium), _folder(np), "<")):
        return True
    standard = sysconfig.get_path("stdlib")
    return file.startswith(standard + os.sep) and f"{os.sep}site-packages{os.sep}" not in file


def _folder(module: ModuleType) -> str:
    return str(Path(module.__file__ or "").parent) + os.sep


def _place(file: str, line: int | None) -> str:
    path = Path(file)
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"
