"""The device on which a network computes, and its precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from slimq.core.errors import InvalidInputError


def resolve_device(wanted: str) -> torch.device:
    """Resolves a device name; `auto` is CUDA if available.

    Raises:
        InvalidInputError: torch does not know the device, or it is not available.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError("device", "cpu, cuda or auto", f"{wanted!r}: {error}") from error
    return device


def resolve_precision(
    wanted: Literal["auto", "fp32", "bf16"], device: torch.device
) -> Literal["fp32", "bf16"]:
    """Resolves a precision; `auto` is bf16 if the hardware supports it, otherwise fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(cpu_flags()) else "fp32"


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flushes denormals to zero: they are slow, and Adam's moments decay to them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def cpu_flags() -> list[str]:
    """The processor's feature flags according to the kernel; empty if unknown."""
    return _cpuinfo("flags").split()


def describe_hardware(device: torch.device, precision: str) -> str:
    """Describes processor, threads and precision, for the record of a run."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    model = _cpuinfo("model name") or "unknown processor"
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads != 1 else ''}, {precision}"


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
