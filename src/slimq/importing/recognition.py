"""Finds out what kind of file a policy is in, and reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from slimq.importing.cleanrl.flax_form import is_msgpack, read_flax
from slimq.importing.cleanrl.torch_form import read_model
from slimq.importing.files.reading import open_archive, read_file
from slimq.importing.hub import (
    find_policy,
    statistics_beside,
    with_environment,
    with_statistics,
)
from slimq.importing.onnx.reader import read_onnx
from slimq.importing.plain_weights.reader import is_safetensors, read_weights
from slimq.importing.source import Framework, Hints, Source, refuse
from slimq.importing.stable_baselines.reader import read_zip, takes_statistics

KINDS = (
    "a zip of Stable-Baselines3, a .cleanrl_model, a torch state dict, safetensors, an ONNX "
    "model, or a folder with one of these"
)
READERS: dict[Framework, Callable[[Path, Hints], Source]] = {
    "sb3": read_zip,
    "sb3-contrib": read_zip,
    "cleanrl": lambda path, _: read_model(path),
    "torch": read_weights,
    "safetensors": read_weights,
    "onnx": read_onnx,
    "flax": lambda path, _: read_flax(path),
}


def read_source(path: Path, hints: Hints) -> Source:
    """Reads a policy from a file or folder.

    Raises:
        InvalidInputError: the file is of no known kind, damaged, of an algorithm without Q-values,
            or needs code to be executed.
    """
    if path.is_dir():
        if hints.framework not in (None, "hub"):
            raise refuse(str(path), f"a file of {hints.framework}", "a folder")
        policy = find_policy(path)
        inner = with_statistics(path, replace(hints, framework=None))
        return with_environment(read_source(policy, inner), path, policy)
    if hints.framework == "hub":
        raise refuse(str(path), "a folder", "a file", "leave out --framework hub")
    framework = hints.framework or _recognise(path)
    source = READERS[framework](path, hints)
    normalizes = source.layout is not None and takes_statistics(source.layout)
    if framework in ("sb3", "sb3-contrib") and normalizes and hints.vecnormalize is None:
        note = statistics_beside(path)
        return source if note is None else replace(source, notes=(*source.notes, note))
    return source


def _recognise(path: Path) -> Framework:
    content, name = read_file(path), str(path)
    suffix = path.suffix.lower()
    if content[:2] == b"PK":
        return _in_archive(content, suffix, name)
    if content[:1] == b"\x80" and suffix != ".onnx":
        return "torch"  # a bare pickle, which the reader refuses with what it needs
    if is_safetensors(content):
        return "safetensors"
    if is_msgpack(content):
        return "flax"
    if suffix == ".onnx" or (content[:1] == b"\x08" and b"\x12" in content[:16]):
        return "onnx"
    shown = content[:16].decode("latin-1").encode("unicode_escape").decode()
    raise refuse(name, KINDS, f"a file that begins with {shown!r}")


def _in_archive(content: bytes, suffix: str, name: str) -> Framework:
    members = open_archive(content, name).namelist()
    if "data" in members and any(member.endswith("policy.pth") for member in members):
        return "sb3"
    if any(member.endswith("data.pkl") for member in members):
        return "cleanrl" if suffix == ".cleanrl_model" else "torch"
    if any(member.endswith(".npy") for member in members):
        raise refuse(name, KINDS, "an npz of arrays", "give states with --observations")
    listing = ", ".join(members[:8]) or "nothing"
    raise refuse(name, KINDS, f"a zip archive with {listing}")
