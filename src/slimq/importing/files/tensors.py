"""Loads tensors that torch or safetensors saved, without executing anything."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from slimq.core.errors import first_line
from slimq.importing.files.pickles import globals_of
from slimq.importing.files.reading import MAX_FILE_BYTES, check_size, open_archive, read_member
from slimq.importing.source import refuse

SAVE_TENSORS = 'save its tensors alone: torch.save(model.state_dict(), "weights.pt")'
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""Beginning of a file that torch wrote before 1.6."""
HARMLESS = frozenset(
    (
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.device",
    )
)
"""Globals that the pickle of a state dict needs; types of storage are others."""


def load_tensors(content: bytes, name: str) -> Any:
    """Loads what `torch.save` wrote, if it consists of tensors and plain values only.

    `torch.load(weights_only=True)` constructs tensors from an allow-list and calls nothing else.

    Raises:
        InvalidInputError: it is damaged, would need to execute code, or unpacks to too much.
    """
    if content[:2] != b"PK":
        if content[: len(LEGACY)] == LEGACY:
            received = "one in the form of torch before 1.6, which is a bare pickle"
            remedy = "load it with torch and save it again"
            raise refuse(name, "a file that torch.save writes today", received, remedy)
        if content[:1] == b"\x80":
            raise _would_execute(content, name)
        expected = "a file that torch.save wrote"
        raise refuse(name, expected, "something else", "name its kind with --framework")
    archive = open_archive(content, name)
    infos = archive.infolist()
    for info in infos:
        check_size(info, name)
    if (total_bytes := sum(info.file_size for info in infos)) > MAX_FILE_BYTES:
        raise refuse(name, f"at most {MAX_FILE_BYTES:,} bytes unpacked", f"{total_bytes:,}")
    pickled = [member for member in archive.namelist() if member.endswith("data.pkl")]
    if not pickled:
        listing = ", ".join(archive.namelist()[:8]) or "nothing"
        raise refuse(name, "a file that torch.save wrote", f"an archive with {listing}")
    if any(member.endswith("constants.pkl") for member in archive.namelist()):
        raise refuse(name, "tensors only", "a TorchScript program", SAVE_TENSORS)
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the loader raises errors without a common base class
        data = read_member(archive, pickled[0], name)
        if _foreign(data):
            raise _would_execute(data, name) from error
        received = f"a damaged one ({first_line(error)[:120]})"
        expected = "a complete file that torch.save wrote"
        raise refuse(name, expected, received, "download or copy it again") from error
    _check_storage(loaded, name, 0)
    return loaded


def _foreign(pickled: bytes) -> list[str]:
    """Globals of a pickle other than those of tensors."""
    found = [str(one) for one in globals_of(pickled)]
    return [
        one
        for one in found
        if one not in HARMLESS and not (one.startswith("torch.") and one.endswith("Storage"))
    ]


def _would_execute(pickled: bytes, name: str) -> Exception:
    found = _foreign(pickled)
    needs = ", ".join(one[:64] for one in found[:4]) or "an older version of torch"
    received = f"a pickle that needs {needs}; nothing of it was executed"
    return refuse(name, "tensors and plain values only", received, SAVE_TENSORS)


def _check_storage(value: Any, name: str, depth: int) -> None:
    """Refuses tensors that are larger than their storage, such as expanded ones."""
    if isinstance(value, Tensor):
        held = value.untyped_storage().nbytes() if value.layout == torch.strided else 0
        if value.layout != torch.strided or value.numel() * value.element_size() > held:
            raise refuse(
                name, "dense tensors", f"one of shape {tuple(value.shape)} in {held} bytes"
            )
    elif depth < 8 and isinstance(value, Mapping):
        for inner in value.values():
            _check_storage(inner, name, depth + 1)
    elif depth < 8 and isinstance(value, list | tuple):
        for inner in value:
            _check_storage(inner, name, depth + 1)


def load_safe(content: bytes, name: str) -> dict[str, Tensor]:
    """Loads safetensors.

    Raises:
        InvalidInputError: it is something else, or damaged.
    """
    try:
        return load_safetensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        received = f"something else or a part of one ({first_line(error)[:120]})"
        raise refuse(name, "a complete safetensors file", received) from error


def state_dict(loaded: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a loaded state dict by name, in float32.

    Raises:
        InvalidInputError: it is something else, or a tensor is not finite.
    """
    if not isinstance(loaded, Mapping) or not loaded:
        received = f"a {type(loaded).__name__}"
        raise refuse(name, "a state dict (names and tensors)", received, SAVE_TENSORS)
    wrong = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if wrong:
        received = f"{str(wrong[0])[:64]!r}: a {type(loaded[wrong[0]]).__name__}"
        raise refuse(name, "a state dict (names and tensors)", received, SAVE_TENSORS)
    return {str(key): checked(value, str(key), name) for key, value in loaded.items()}


def checked(values: Tensor | np.ndarray[Any, Any], tensor: str, name: str) -> Tensor:
    """A tensor in float32, finite.

    Raises:
        InvalidInputError: an element is NaN or infinite, or the tensor is not one of numbers.
    """
    found = torch.as_tensor(values.copy() if isinstance(values, np.ndarray) else values)
    if found.is_complex() or found.is_quantized:
        raise refuse(name, "tensors of floats", f"{tensor[:64]!r} of {found.dtype}")
    found = found.detach().to(torch.float32).contiguous()
    finite = torch.isfinite(found)
    if not bool(finite.all()):
        index = int(torch.argmin(finite.flatten().int()))
        place = "".join(f"[{i}]" for i in np.unravel_index(index, tuple(found.shape) or (1,)))
        received = f"{float(found.flatten()[index])} in {tensor[:64]!r} at {place}"
        remedy = "training diverged before it was saved: use an earlier checkpoint"
        raise refuse(name, "finite weights", received, remedy)
    return found


def sizes(tensors: Mapping[str, Tensor], limit: int = 6) -> str:
    """The names and shapes of some tensors, for errors."""
    listing = [f"{name[:64]} {tuple(value.shape)}" for name, value in tensors.items()]
    more = f" and {len(listing) - limit} more" if len(listing) > limit else ""
    return (", ".join(listing[:limit]) or "no tensors") + more
