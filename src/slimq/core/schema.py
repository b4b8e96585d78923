"""Schema versions of the repository's documents, and reading documents of other versions.

A new major version means that older readers would misunderstand a document, so they refuse it. A
new minor version only adds optional fields: older readers ignore unknown ones, and newer readers
use defaults for missing ones. Writing back a document of a newer minor version would lose its new
fields, so it is refused.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAJOR, MINOR = 1, 2


class Versioned(BaseModel):
    """Base of the documents on disk; unknown keys are refused, except of newer minor versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(default=1, description="major version of the schema")
    schema_minor: int = Field(
        default=MINOR, ge=0, strict=True, description="minor version; each adds optional fields"
    )

    @property
    def is_newer(self) -> bool:
        """Whether a newer slimq made the document, so that it may have had fields unknown here."""
        return self.schema_minor > MINOR


D = TypeVar("D", bound=BaseModel)


def read_document(content: bytes, kind: type[D]) -> D:
    """Reads a document from JSON, without the unknown fields of a newer minor version.

    Args:
        content: the document, in UTF-8.
        kind: model of the document.

    Raises:
        pydantic.ValidationError: it is invalid, or has another major version.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        known = _known_part(content, error)
        if known is None:
            raise
    return kind.model_validate_json(known)


def _known_part(content: bytes, error: ValidationError) -> bytes | None:
    """The document without its unknown fields; None unless it has a newer minor version."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("schema_version", MAJOR) != MAJOR:
        return None
    minor = document.get("schema_minor")
    if type(minor) is not int or minor <= MINOR:
        return None
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        if problem["type"] == "extra_forbidden":
            _remove(document, problem["loc"])
    return json.dumps(document).encode()


def _remove(document: Any, place: tuple[int | str, ...]) -> None:
    """Removes the field at `place`, in which names that are no keys are tags of unions."""
    *path, last = place
    for key in path:
        if (isinstance(document, dict) and key in document) or isinstance(document, list):
            document = document[key]  # type: ignore[index]
    if isinstance(document, dict):
        document.pop(last, None)
