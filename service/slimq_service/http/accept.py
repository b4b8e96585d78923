"""Which media type a client prefers, by its Accept header."""

from __future__ import annotations


def prefers_json(accept: str) -> bool:
    """Whether an Accept header ranks JSON above HTML."""
    return _quality(accept, "application/json") > _quality(accept, "text/html")


def _quality(accept: str, media_type: str) -> float:
    kind = media_type.partition("/")[0]
    best = {"precision": -1, "quality": 0.0}
    for part in accept.lower().split(","):
        name, _, parameters = part.partition(";")
        precision = {media_type: 2, f"{kind}/*": 1, "*/*": 0}.get(name.strip(), -1)
        if precision > best["precision"]:
            best = {"precision": precision, "quality": _q(parameters)}
    return best["quality"]


def _q(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
