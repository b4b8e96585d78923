"""ONNX Runtime's execution providers: what runs a model's operators, by short names.

Which there are depends on the wheel that is installed: `onnxruntime` has the processor alone,
`onnxruntime-gpu` and `onnxruntime-openvino` bring one more each. All of them unpack the same
package, so only one may be installed. ONNX Runtime takes a provider that is missing, or that cannot
start, for a wish: it runs on the processor and prints a line. Here that is an error.
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
"""By our names: ONNX Runtime's."""
EXTRAS = {"cuda": "serve-cuda", "tensorrt": "serve-cuda", "openvino": "serve-openvino"}
"""The extra of slimq that brings a provider."""
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

IDENTITY = bytes.fromhex(
    "080a3a390a100a017812017922084964656e746974791201675a100a0178120b0a09080112050a0312016e6210"
    "0a0179120b0a09080112050a0312016e42040a001015"
)
"""A model that answers what it is given, to see what a session really runs on."""


def parse_providers(text: str) -> tuple[str, ...]:
    """The names of a list with commas between them.

    Raises:
        ValueError: one is unknown or named twice, or there is none.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ValueError(f"expected one or more of {', '.join(PROVIDERS)}, received none")
    for name in names:
        if name not in PROVIDERS:
            hint = suggestion(name, PROVIDERS)
            raise ValueError(f"expected some of {', '.join(PROVIDERS)}, received {name!r}{hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"expected each at most once, received {text!r}")
    return names


def check_available(names: Sequence[str], source: str, place: str) -> None:
    """Holds names to what the installed ONNX Runtime has; none is started.

    Args:
        names: of providers, the preferred one first.
        source: what asked for them, for the error.
        place: where it did.

    Raises:
        ConfigError: one is not there; the message says which are, and which extra brings it.
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
    """The names that ONNX Runtime knows."""
    return [PROVIDERS[name] for name in names]


def _collision() -> str:
    """What is wrong where more than one wheel is installed, an empty string where it is not."""
    installed = []
    for wheel in WHEELS:
        try:
            metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
        installed.append(wheel)
    return f"; {' and '.join(installed)} are both installed" if len(installed) > 1 else ""
