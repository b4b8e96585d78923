from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders import make_mlp
from slimq.core.errors import RepositoryError
from slimq.core.repository import Repository
from slimq.core.stamp import FileStamp
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


def rewrite(path: Path, content: bytes) -> None:
    """Changes a file in place; its size and its modification time stay."""
    times = path.stat()
    assert len(content) == times.st_size
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def test_files_that_change_in_place_are_seen_though_size_and_modification_time_stay(
    repository: Repository, repositories: Any
) -> None:
    first = scan_repository(repository, Scan(), 60.0)
    manifest = repositories.folder("tiny", "fp32") / "variant.json"
    rewrite(manifest, manifest.read_bytes().replace(b'"fp32"', b'"fp33"'))
    policy = repositories.root / "tiny_frames" / "policy.json"
    rewrite(policy, policy.read_bytes().replace(b'"noop"', b'"wait"'))
    model = repositories.model("tiny", "other")
    rewrite(model, flipped(model))
    second = scan_repository(repository, first, 60.0)
    assert "found tiny/fp33" in str(second.variant("tiny", "fp32").error)
    assert second.policy_manifest("tiny_frames").actions[0] == "wait"
    assert "has sha256" in str(second.variant("tiny", "other").error)
    assert second.variant("tiny_frames", "fp32").error is None


def test_a_reread_trusts_no_stamp(
    repository: Repository, repositories: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose metadata tell nothing."""
    constant = FileStamp(0, 0, 0, 0, 0)
    monkeypatch.setattr(FileStamp, "of", classmethod(lambda cls, status: constant))
    first = scan_repository(repository, Scan(), 60.0)
    for policy in ("tiny", "tiny_frames"):
        model = repositories.model(policy, "other")
        rewrite(model, flipped(model))
    second = scan_repository(repository, first, 60.0)
    assert second == first
    third = scan_repository(repository, second, 60.0, frozenset({("tiny", "other")}))
    assert "has sha256" in str(third.variant("tiny", "other").error)
    assert third.variant("tiny_frames", "other").error is None, "nobody asked for it"


@pytest.mark.parametrize("how", ["missing", "empty", "of something else"])
def test_a_repository_whose_policies_are_all_gone_cannot_be_read(
    repository: Repository, how: str
) -> None:
    first = scan_repository(repository, Scan(), 60.0)
    away = repository.root.rename(repository.root.with_name("away"))
    if how != "missing":
        repository.root.mkdir()
    if how == "of something else":
        (repository.root / "lost+found").mkdir()
        (repository.root / "unfinished").mkdir()
    message = "No such file" if how == "missing" else "holds no policies, but held 2 before"
    with pytest.raises(RepositoryError, match=message) as caught:
        scan_repository(repository, first, 60.0)
    assert caught.value.path == str(repository.root)
    if how != "missing":
        shutil.rmtree(repository.root)
    away.rename(repository.root)
    assert scan_repository(repository, first, 60.0).policies == first.policies


def test_a_repository_that_goes_while_it_is_scanned_loses_nothing(repositories: Any) -> None:
    class Going(Repository):
        def variants(self, policy: str) -> list[str]:
            found = super().variants(policy)
            if going:
                going.clear()
                shutil.move(self.root / "tiny", self.root.parent / "tiny")
                shutil.move(self.root / "tiny_frames", self.root.parent / "tiny_frames")
            return found

    repository = Going(repositories.root)
    going: list[bool] = []
    first = scan_repository(repository, Scan(), 60.0)
    going.append(True)
    with pytest.raises(RepositoryError, match="holds no policies, but held 2 before"):
        scan_repository(repository, first, 60.0)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_errors_of_the_disk_keep_what_was_known(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    first = scan_repository(repository, Scan(), 60.0)
    original = os.open
    broken: set[str] = {str(repository.root)}

    def fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path) in broken:
            raise OSError(code, os.strerror(code))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", fail)
    monkeypatch.setattr(os, "supports_dir_fd", {fail})
    with pytest.raises(RepositoryError, match=os.strerror(code)):
        scan_repository(repository, first, 60.0)
    broken.clear()
    broken.add("tiny")
    second = scan_repository(repository, first, 60.0)
    assert [key for key, _ in second.entries()] == [key for key, _ in first.entries()]
    assert second.policy("tiny").manifest is first.policy("tiny").manifest
    assert os.strerror(code) in str(second.variant("tiny", "fp32").error)
    assert second.variant("tiny_frames", "fp32") is first.variant("tiny_frames", "fp32")
    broken.clear()
    assert scan_repository(repository, second, 60.0).variant("tiny", "fp32").error is None


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


def test_a_manifest_that_becomes_a_link_out_of_the_repository_is_seen_and_refused(
    repository: Repository, repositories: Any
) -> None:
    first = scan_repository(repository, Scan(), 5.0)
    path = repositories.root / "tiny" / "policy.json"
    outside = repositories.root.parent / "linked.json"
    path.rename(outside)
    path.symlink_to("../../linked.json")
    second = scan_repository(repository, first, 5.0)
    assert "policy.json: is a symbolic link" in str(second.policies["tiny"].error)
    assert second.policies["tiny"].manifest is not None, "the last good one is kept"
    path.unlink()
    outside.rename(path)
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
    away = repositories.root.parent / "away"
    folder.rename(away)
    folder.symlink_to("../../away")
    policy = scan_repository(repository, first, 5.0).policies["tiny"]
    assert "link" in str(policy.error)
    assert list(policy.variants) == ["fp32", "other"]
    folder.unlink()
    away.rename(folder)
    repaired = scan_repository(repository, scan_repository(repository, first, 0.0), 0.0)
    assert repaired.policies["tiny"].error is None
