"""Manifests are frozen, versioned, closed to unknown keys, and survive the disk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from slimq.core.manifest import FileEntry, PolicyManifest, Sha256, Slug, VariantManifest

ENTRY = FileEntry(path="model-0.onnx", bytes=1, sha256="0" * 64)


@pytest.fixture(params=["tiny", "tiny_frames"])
def policy(request: pytest.FixtureRequest, policy_manifest: Any) -> PolicyManifest:
    manifest: PolicyManifest = policy_manifest(request.param, calibration=ENTRY)
    return manifest


@pytest.fixture
def variant(variant_manifest: Any) -> VariantManifest:
    manifest: VariantManifest = variant_manifest("tiny", "fp32", ENTRY)
    return manifest


def test_manifests_survive_json(policy: PolicyManifest, variant: VariantManifest) -> None:
    assert PolicyManifest.model_validate_json(policy.model_dump_json()) == policy
    assert VariantManifest.model_validate_json(variant.model_dump_json()) == variant


def test_manifests_are_frozen(policy: PolicyManifest, variant: VariantManifest) -> None:
    for manifest in (policy, variant, ENTRY):
        name = next(iter(type(manifest).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(manifest, name, "changed")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a dumped manifest holds an object."""
    found = [path] if isinstance(value, dict) else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)):
            found += _places(item, (*path, key))
    return found


FREE = {"kwargs", "config", "versions", "parameters"}
"""Objects whose keys are the user's."""


def test_an_unknown_key_is_refused_at_every_depth(
    policy: PolicyManifest, variant: VariantManifest
) -> None:
    for manifest in (policy, variant):
        places = _places(manifest.model_dump(mode="json"))
        closed = [place for place in places if not FREE & set(map(str, place))]
        assert len(closed) >= 4
        for place in closed:
            content = manifest.model_dump(mode="json")
            target = content
            for key in place:
                target = target[key]
            target["unknown_key"] = 1
            with pytest.raises(ValidationError, match="unknown_key"):
                type(manifest).model_validate(content)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version_is_refused(variant: VariantManifest, version: Any) -> None:
    content = {**variant.model_dump(mode="json"), "schema_version": version}
    with pytest.raises(ValidationError, match="schema_version"):
        VariantManifest.model_validate(content)


SLUGS = TypeAdapter(Slug)


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True))
def test_slugs_pass(name: str) -> None:
    assert SLUGS.validate_python(name) == name


@given(st.text(max_size=70))
def test_an_invalid_slug_is_refused(name: str) -> None:
    alphabet = set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    valid = 0 < len(name) <= 64 and set(name) <= alphabet and name[0] not in "._-"
    if not valid:
        with pytest.raises(ValidationError):
            SLUGS.validate_python(name)


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../a", "a/b", "/a", "a\\b", ".hidden", "a\n", "a\0", "a" * 129]
)
def test_a_file_name_that_could_leave_its_folder_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        FileEntry(path=path, bytes=1, sha256="0" * 64)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n"])
def test_an_invalid_sha256_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Sha256).validate_python(digest)
