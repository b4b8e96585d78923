from __future__ import annotations

import shutil
from typing import Any

import pytest

from builders import make_mlp
from slimq.core.repository import Repository
from slimq_service.variants.snapshot import Scan, scan_repository


@pytest.fixture
def repository(repositories: Any) -> Repository:
    return Repository(repositories.root)


def test_what_has_not_changed_is_taken_over(repository: Repository) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    second = scan_repository(repository, first, 5.0)
    assert set(second.policies) == {"tiny", "tiny_frames"}
    for name, policy in second.policies.items():
        assert policy.manifest is first.policies[name].manifest
        for variant, entry in policy.variants.items():
            assert entry is first.policies[name].variants[variant]


def test_a_new_version_is_read_again(repository: Repository, repositories: Any) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    digest = repositories.publish("tiny", "other", make_mlp(9))
    second = scan_repository(repository, first, 5.0)
    manifest = second.policies["tiny"].variants["other"].manifest
    assert manifest is not None
    assert manifest.model.sha256 == digest


def test_a_tampered_model_is_named_and_the_others_are_whole(
    repository: Repository, repositories: Any
) -> None:
    repositories.corrupt("tiny", "other")
    variants = scan_repository(repository, Scan(), 5.0).policies["tiny"].variants
    assert repositories.model("tiny", "other").name in str(variants["other"].error)
    assert variants["fp32"].error is None


def test_a_repaired_file_is_noticed_though_no_manifest_changed(
    repository: Repository, repositories: Any
) -> None:
    path = repositories.model("tiny", "other")
    content = path.read_bytes()
    path.unlink()
    first = scan_repository(repository, Scan(), 0.0)
    assert first.policies["tiny"].variants["other"].error is not None
    path.write_bytes(content)
    second = scan_repository(repository, first, 0.0)
    assert second.policies["tiny"].variants["other"].error is None


def test_a_manifest_that_is_no_json_is_named(repository: Repository, repositories: Any) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    (repositories.root / "tiny" / "policy.json").write_text("{")
    (repositories.folder("tiny_frames", "other") / "variant.json").write_text("{}")
    second = scan_repository(repository, first, 5.0)
    assert "policy.json" in str(second.policies["tiny"].error)
    assert second.policies["tiny"].manifest is not None, "the last good one is kept"
    assert "variant.json" in str(second.policies["tiny_frames"].variants["other"].error)


def test_a_manifest_that_becomes_a_link_to_itself_is_seen_and_refused(
    repository: Repository, repositories: Any
) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    path = repositories.root / "tiny" / "policy.json"
    path.rename(path.with_name("linked.json"))
    path.symlink_to("linked.json")
    second = scan_repository(repository, first, 5.0)
    assert "policy.json: is a symbolic link" in str(second.policies["tiny"].error)
    assert second.policies["tiny"].manifest is not None, "the last good one is kept"
    path.unlink()
    path.with_name("linked.json").rename(path)
    assert scan_repository(repository, second, 5.0).policies["tiny"].error is None


def test_what_is_removed_is_gone(repository: Repository, repositories: Any) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    shutil.rmtree(repositories.root / "tiny_frames")
    shutil.rmtree(repositories.folder("tiny", "other"))
    second = scan_repository(repository, first, 5.0)
    assert list(second.policies) == ["tiny"]
    assert list(second.policies["tiny"].variants) == ["fp32"]


def test_variants_that_cannot_be_listed_are_named_not_dropped(
    repository: Repository, repositories: Any
) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    folder = repositories.root / "tiny" / "variants"
    folder.rename(folder.with_name("away"))
    folder.symlink_to("away")
    policy = scan_repository(repository, first, 5.0).policies["tiny"]
    assert "link" in str(policy.error)
    assert list(policy.variants) == ["fp32", "other"]
    folder.unlink()
    folder.with_name("away").rename(folder)
    repaired = scan_repository(repository, scan_repository(repository, first, 0.0), 0.0)
    assert repaired.policies["tiny"].error is None
