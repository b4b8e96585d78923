"""What the tests of metrics ask of a registry."""

from __future__ import annotations

from collections.abc import Mapping

from slimq_service.metrics.registry import Registry


def sample_value(
    registry: Registry, name: str, labels: Mapping[str, str] | None = None
) -> float | None:
    """The value of one line of the text, None where there is none."""
    pairs = [f'{key}="{value}"' for key, value in (labels or {}).items()]
    wanted = {*pairs}
    for line in registry.render().splitlines():
        start, _, value = line.rpartition(" ")
        found, _, rest = start.partition("{")
        if found == name and {*filter(None, rest.removesuffix("}").split(","))} == wanted:
            return float(value)
    return None
