"""Short names for ONNX Runtime's execution providers, which run a model's operators.

The installed wheel determines which are available: `onnxruntime` has only the CPU, while
`onnxruntime-gpu` and `onnxruntime-openvino` add more. They all install the same package, so only
one may be installed. If a provider is missing or cannot start, ONNX Runtime prints a warning and
falls back to the CPU; here that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from slimq.core.errors import ConfigError, suggestion

CPU = ("cpu",)
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""ONNX Runtime's name by short name."""
EXTRAS = {"cuda": "serve-cuda", "tensorrt": "serve-cuda", "openvino": "serve-openvino"}
"""The slimq extra that installs a provider, by short name."""
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

IDENTITY = bytes.fromhex(
    "080a3a390a100a017812017922084964656e746974791201675a100a0178120b0a09080112050a0312016e6210"
    "0a0179120b0a09080112050a0312016e42040a001015"
)
"""An identity model, to find out which provider a session actually runs on."""


def parse_providers(text: str) -> tuple[str, ...]:
    """Parses a comma-separated list of provider names.

    Raises:
        ValueError: a name is unknown or repeated, or the list is empty.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ValueError(f"expected one or more of {', '.join(PROVIDERS)}, received none")
    for name in names:
        if name not in PROVIDERS:
            hint = suggestion(name, PROVIDERS)
            raise ValueError(f"expected any of {', '.join(PROVIDERS)}, received {name!r}{hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"expected each name at most once, received {text!r}")
    return names


def check_available(names: Sequence[str], source: str, place: str) -> None:
    """Checks that the installed ONNX Runtime has these providers, without starting any.

    Args:
        names: provider names, the preferred one first.
        source: configuration source that names them, for errors.
        place: setting or key within the source.

    Raises:
        ConfigError: one is not available; the error lists those that are, and the extra to install.
    """
    import onnxruntime as ort

    compiled = ort.get_available_providers()
    available = [name for name, provider in PROVIDERS.items() if provider in compiled]
    for name in names:
        if name not in available:
            extra = EXTRAS.get(name)
            how = f"; install slimq[{extra}] instead of slimq[serve]" if extra else ""
            there = f"{name} is not available; available: {', '.join(available)}"
            raise ConfigError(source, place, there + how + _collision())


def full_names(names: Sequence[str]) -> list[str]:
    """ONNX Runtime's names of these providers."""
    return [PROVIDERS[name] for name in names]


def _collision() -> str:
    """A message if several conflicting wheels are installed, otherwise an empty string."""
    installed = []
    for wheel in WHEELS:
        try:
            metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
        installed.append(wheel)
    if len(installed) < 2:
        return ""
    return f"; conflicting wheels installed: {', '.join(installed)}"
