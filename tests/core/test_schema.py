"""Documents of older and of newer versions of the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from builders import build_repository
from slimq.core.errors import RepositoryError
from slimq.core.manifest import PolicyManifest, Routing, VariantManifest
from slimq.core.publish import Publisher
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.schema import MAJOR, MINOR, read_document

NEWER = {"schema_minor": MINOR + 3}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build_repository(tmp_path / "policies")


def change(path: Path, **values: Any) -> None:
    document = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not ...}))


def content(path: Path, *places: tuple[str, ...], **values: Any) -> bytes:
    """A stored document with an unknown field in each of the places."""
    document = json.loads(path.read_text()) | values
    for place in ((), *places):
        target = document
        for key in place:
            target = target[key]
        target["field_of_tomorrow"] = {"any": [1]}
    return json.dumps(document).encode()


def test_a_document_without_a_minor_version_is_read(root: Path) -> None:
    """As all of those are that were written before there was one."""
    before = Repository(root).policy("tiny")
    change(root / "tiny" / "policy.json", schema_minor=..., schema_version=...)
    assert Repository(root).policy("tiny") == before
    assert (before.schema_version, before.schema_minor) == (MAJOR, MINOR)


def test_unknown_fields_of_a_newer_minor_version_are_ignored_wherever_they_are(root: Path) -> None:
    policy, variant = root / "tiny" / "policy.json", root / "tiny" / "variants" / "fp32"
    places = (("environment",), ("observation",), ("training",))
    read = read_document(content(policy, *places, **NEWER), PolicyManifest)
    assert read.is_newer
    assert read.model_copy(update={"schema_minor": MINOR}) == Repository(root).policy("tiny")
    stored = content(variant / "variant.json", ("recipe",), ("model",), **NEWER)
    assert (
        read_document(stored, VariantManifest).model
        == Repository(root).variant("tiny", "fp32").model
    )


def test_an_unknown_field_of_this_version_is_a_mistake(root: Path) -> None:
    for minor in ({}, {"schema_minor": MINOR}):
        with pytest.raises(ValidationError, match="field_of_tomorrow"):
            read_document(content(root / "tiny" / "policy.json", **minor), PolicyManifest)


@pytest.mark.parametrize("minor", [-1, 1.5, "1", None, True])
def test_a_minor_version_is_a_number(root: Path, minor: Any) -> None:
    with pytest.raises(ValidationError, match="schema_minor"):
        read_document(content(root / "tiny" / "policy.json", schema_minor=minor), PolicyManifest)


def test_known_fields_of_a_newer_minor_version_are_checked_as_ever(root: Path) -> None:
    stored = content(root / "tiny" / "policy.json", **NEWER, actions=[])
    with pytest.raises(ValidationError, match="actions"):
        read_document(stored, PolicyManifest)


@pytest.mark.parametrize("stored", [b"[" * 100_000, b'{"schema_minor": 9', b"\xff", b"", b"[]"])
def test_what_is_no_document_is_refused_as_one(stored: bytes) -> None:
    with pytest.raises(ValidationError):
        read_document(stored, PolicyManifest)


def test_a_newer_major_version_is_refused_in_a_sentence(root: Path) -> None:
    change(root / "tiny" / "policy.json", schema_version=MAJOR + 1, **NEWER)
    found = f"this slimq reads {MAJOR}, found {MAJOR + 1}; a newer slimq made it"
    with pytest.raises(RepositoryError, match=found):
        Repository(root).policy("tiny")


def test_a_manifest_of_a_newer_minor_version_is_not_written_back(root: Path) -> None:
    path = root / "tiny" / "policy.json"
    change(path, **NEWER, field_of_tomorrow=1)
    before = path.read_bytes()
    repository = Repository(root)
    with pytest.raises(RepositoryError, match="was made by a newer slimq"):
        Publisher(repository).route("tiny", Routing(weights={"fp32": 1.0}))
    with pytest.raises(RepositoryError, match="no file is removed"):
        Publisher(repository).collect_garbage("tiny", 0.0)
    assert path.read_bytes() == before


def test_a_report_has_a_minor_version_too() -> None:
    assert EvaluationReport.model_fields["schema_minor"].default == MINOR
