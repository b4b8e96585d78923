"""Publishing: what it writes, what it refuses, what it collects."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from slimq.core import atomic
from slimq.core.atomic import TEMPORARY
from slimq.core.errors import InvalidInputError, NotFoundError, RepositoryError
from slimq.core.locks import hold_lock
from slimq.core.manifest import FileEntry, VariantManifest
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.core.verification import find_problems
from waiting import until


@pytest.fixture
def publish(
    publisher: Publisher, mlp: Callable[..., bytes], variant_manifest: Callable[..., Any]
) -> Callable[..., VariantManifest]:
    """`publish(name, seed, **changes)` publishes an MLP as a variant of `tiny`."""

    def call(name: str, seed: int, **changes: Any) -> VariantManifest:
        model = mlp(seed)
        manifest = variant_manifest("tiny", name, content_entry("model", ".onnx", model))
        manifest = manifest.model_copy(update=changes)
        publisher.publish_variant(manifest, model)
        return manifest

    return call


@given(st.binary(max_size=64), st.sampled_from(["model", "report"]), st.just(".bin"))
def test_an_entry_is_named_by_its_content(content: bytes, stem: str, suffix: str) -> None:
    entry = content_entry(stem, suffix, content)
    assert entry.path == f"{stem}-{entry.sha256[:12]}{suffix}"
    assert entry.bytes == len(content)
    assert entry.uncompressed_bytes is None


def test_a_published_variant_reads_back(publish: Any, repository: Repository, mlp: Any) -> None:
    manifest = publish("new", 5)
    assert repository.read_model("tiny", "new") == (manifest, mlp(5))
    assert repository.variants("tiny") == ["fp32", "new", "other"]


def test_a_compressed_model_reads_back_decompressed(
    publisher: Publisher, repository: Repository, mlp: Any, variant_manifest: Any
) -> None:
    model = mlp(5, width=200)
    stored = zstandard.ZstdCompressor().compress(model)
    entry = content_entry("model", ".onnx.zst", stored, uncompressed_bytes=len(model))
    publisher.publish_variant(variant_manifest("tiny", "packed", entry), stored)
    manifest, content = repository.read_model("tiny", "packed")
    assert content == model
    assert manifest.model.bytes == len(stored) < len(model)


def test_a_manifest_on_disk_is_indented_sorted_and_ends_with_a_newline(
    publish: Any, tiny_repository: Path
) -> None:
    publish("new", 5)
    text = (tiny_repository / "tiny/variants/new/variant.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_published_files_can_be_read_by_other_users(publish: Any, tiny_repository: Path) -> None:
    umask = os.umask(0o022)
    try:
        publish("new", 5)
    finally:
        os.umask(umask)
    modes = {
        path.stat().st_mode & 0o777 for path in (tiny_repository / "tiny/variants/new").iterdir()
    }
    assert modes == {0o644}


def test_a_policy_is_published_into_a_repository_that_does_not_exist_yet(
    tmp_path: Path, policy_manifest: Any
) -> None:
    repository = Repository(tmp_path / "a" / "b")
    entry = content_entry("checkpoint", ".safetensors", b"weights")
    manifest = policy_manifest("fresh").model_copy(update={"checkpoint": entry})
    Publisher(repository).publish_policy(manifest, {entry.path: b"weights"})
    assert repository.policies() == ["fresh"]
    assert repository.policy("fresh") == manifest
    assert repository.read_file("fresh", entry) == b"weights"
    assert repository.variants("fresh") == []


def test_a_policy_can_change_without_its_files_being_supplied_again(
    publisher: Publisher, repository: Repository
) -> None:
    manifest = repository.policy("tiny").model_copy(update={"default_variant": "other"})
    publisher.publish_policy(manifest, {})
    assert repository.policy("tiny").default_variant == "other"
    assert repository.variants("tiny") == ["fp32", "other"]


def test_a_report_is_attached_and_read_back(
    publisher: Publisher, repository: Repository, report_of: Any
) -> None:
    report = report_of(repository.variant("tiny", "fp32"))
    manifest = publisher.attach_report("tiny", "fp32", report)
    assert repository.variant("tiny", "fp32") == manifest
    assert repository.report("tiny", "fp32") == report


def test_each_list_of_numbers_takes_one_line_on_disk(
    publisher: Publisher, repository: Repository, report_of: Any, tiny_repository: Path
) -> None:
    report = report_of(repository.variant("tiny", "fp32"))
    assert report.returns[0].is_integer()
    report = report.model_copy(update={"returns": [*report.returns[:-1], 1.5]})
    entry = publisher.attach_report("tiny", "fp32", report).report
    assert entry is not None
    text = (tiny_repository / "tiny/variants/fp32" / entry.path).read_text(encoding="utf-8")
    returns = ",".join(f"{value:g}" for value in report.returns)
    assert ".0" not in returns
    assert f'\n  "returns": [{returns}],\n' in text
    assert json.loads(text) == report.model_dump(mode="json")
    assert repository.report("tiny", "fp32") == report


def test_the_same_model_keeps_its_report_and_another_does_not(
    publish: Any, publisher: Publisher, repository: Repository, report_of: Any
) -> None:
    manifest = publish("new", 5)
    publisher.attach_report("tiny", "new", report_of(manifest))
    publish("new", 5, precision="fp16")
    assert repository.report("tiny", "new") == report_of(manifest)
    publish("new", 6)
    assert repository.report("tiny", "new") is None


def test_a_report_for_another_model_is_refused(
    publisher: Publisher, repository: Repository, report_of: Any
) -> None:
    other = repository.variant("tiny", "other")
    with pytest.raises(RepositoryError, match="is for tiny/other"):
        publisher.attach_report("tiny", "fp32", report_of(other))
    wrong = report_of(repository.variant("tiny", "fp32")).model_copy(
        update={"model_sha256": "0" * 64}
    )
    with pytest.raises(RepositoryError, match="is for another model"):
        publisher.attach_report("tiny", "fp32", wrong)


def test_files_that_do_not_match_the_manifest_are_refused(
    publisher: Publisher, repository: Repository, mlp: Any, variant_manifest: Any
) -> None:
    entry = content_entry("model", ".onnx", mlp(5))
    with pytest.raises(RepositoryError, match=r"tiny/variants/new/model-.*sha256"):
        publisher.publish_variant(variant_manifest("tiny", "new", entry), mlp(6))
    with pytest.raises(RepositoryError, match=r"has 3 bytes"):
        publisher.publish_variant(variant_manifest("tiny", "new", entry), b"abc")
    with pytest.raises(NotFoundError, match="unknown policy 'nope'"):
        publisher.publish_variant(variant_manifest("nope", "new", entry), mlp(5))
    plain = FileEntry(path="model.onnx", bytes=entry.bytes, sha256=entry.sha256)
    with pytest.raises(RepositoryError, match="not named by its content"):
        publisher.publish_variant(variant_manifest("tiny", "new", plain), mlp(5))
    junk = content_entry("model", ".onnx", b"junk")
    with pytest.raises(RepositoryError, match="is not an ONNX model"):
        publisher.publish_variant(variant_manifest("tiny", "new", junk), b"junk")
    tiny = repository.policy("tiny")
    with pytest.raises(RepositoryError, match=r"stray\.bin: is not named by the manifest"):
        publisher.publish_policy(tiny, {"stray.bin": b""})
    lacking = tiny.model_copy(update={"checkpoint": content_entry("checkpoint", ".bin", b"x")})
    with pytest.raises(RepositoryError, match="was neither supplied nor found"):
        publisher.publish_policy(lacking, {})
    assert repository.variants("tiny") == ["fp32", "other"]


def test_a_name_that_skipped_validation_is_refused(
    publisher: Publisher, policy_manifest: Any
) -> None:
    manifest = policy_manifest("fine").model_copy(update={"name": "../escape"})
    with pytest.raises(RepositoryError, match="not a valid name"):
        publisher.publish_policy(manifest, {})


def test_a_number_that_is_not_finite_is_refused_before_anything_changes(
    publisher: Publisher, repository: Repository
) -> None:
    before = repository.policy("tiny")
    training = before.training.model_copy(update={"curve": [(1, float("nan"))]})
    with pytest.raises(RepositoryError, match=r"tiny/policy.json: contains a non-finite number"):
        publisher.publish_policy(before.model_copy(update={"training": training}), {})
    assert repository.policy("tiny") == before


def test_nothing_is_written_through_a_symbolic_link(
    publish: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tiny_repository / "tiny/variants/linked").symlink_to(outside)
    with pytest.raises(RepositoryError, match="tiny/variants/linked: is a symbolic link"):
        publish("linked", 5)
    assert list(outside.iterdir()) == []


def test_a_broken_variant_can_be_replaced(
    publish: Any, repository: Repository, tiny_repository: Path
) -> None:
    (tiny_repository / "tiny/variants/fp32/variant.json").write_text("{", encoding="utf-8")
    manifest = publish("fp32", 5)
    assert repository.read_model("tiny", "fp32")[0].model == manifest.model


def test_garbage_is_collected_after_its_grace_period_only(
    publish: Any, publisher: Publisher, repository: Repository, tiny_repository: Path
) -> None:
    folder = tiny_repository / "tiny/variants/fp32"
    old = repository.variant("tiny", "fp32").model.path
    os.utime(folder / old, (0, 0))
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / f"{TEMPORARY}1-a").write_bytes(b"half")
    publish("fp32", 5)
    assert publisher.collect_garbage("tiny") == []
    expected = sorted([f"tiny/variants/fp32/{TEMPORARY}1-a", f"tiny/variants/fp32/{old}"])
    assert publisher.collect_garbage("tiny", grace_seconds=0) == expected
    assert (folder / "notes.txt").exists()
    assert find_problems(repository, "tiny") == []


def test_an_unfinished_first_publish_is_collected(
    publisher: Publisher, tiny_repository: Path
) -> None:
    folder = tiny_repository / "tiny/variants/never"
    folder.mkdir()
    (folder / "model-0123456789ab.onnx").write_bytes(b"half")
    removed = publisher.collect_garbage("tiny", grace_seconds=0)
    assert removed == ["tiny/variants/never/model-0123456789ab.onnx"]


def test_nothing_is_collected_beside_a_broken_manifest(
    publisher: Publisher, tiny_repository: Path
) -> None:
    folder = tiny_repository / "tiny/variants/fp32"
    (folder / "variant.json").write_text("{}", encoding="utf-8")
    before = sorted(tiny_repository.rglob("*"))
    with pytest.raises(RepositoryError, match=r"tiny/variants/fp32/variant\.json"):
        publisher.collect_garbage("tiny", grace_seconds=0)
    assert [path for path in sorted(tiny_repository.rglob("*")) if path.name != ".lock"] == before


def test_a_reader_whose_file_is_collected_meanwhile_reads_the_new_variant(
    publish: Any,
    publisher: Publisher,
    repository: Repository,
    mlp: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, calls = Repository.variant, []

    def slow(self: Repository, policy: str, variant: str) -> VariantManifest:
        manifest = original(self, policy, variant)
        calls.append(manifest)
        if len(calls) == 1:
            publish("fp32", 5)
            publisher.collect_garbage("tiny", grace_seconds=0)
        return manifest

    monkeypatch.setattr(Repository, "variant", slow)
    reader = Repository(repository.root)
    assert reader.read_model("tiny", "fp32")[1] == mlp(5)


def test_a_publisher_waits_for_the_lock_of_another(
    publish: Any, repository: Repository, tiny_repository: Path
) -> None:
    publish("first", 1)
    thread = threading.Thread(target=publish, args=("second", 2))
    with hold_lock(tiny_repository / "tiny/.lock"), capture_logs() as logs:
        thread.start()
        until(lambda: "waiting for another process" in [log["event"] for log in logs], 10)
        assert "second" not in repository.variants("tiny")
    thread.join(10)
    assert "second" in repository.variants("tiny")


def test_a_publisher_that_waits_too_long_names_the_lock(
    publish: Any, repository: Repository, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "MAX_WAIT_SECONDS", 0.1)
    message = (
        r"cannot be published: \S*/tiny/\.lock is locked by another process "
        r"\(waited 0\.1 s\); nothing"
    )
    with (
        hold_lock(tiny_repository / "tiny/.lock"),
        pytest.raises(RepositoryError, match=message),
    ):
        publish("second", 2)
    assert "second" not in repository.variants("tiny")


FAULTS = ("open", "write", "fsync", "replace", "mkdir", "utime", "close")


def test_a_fault_at_any_step_is_a_repository_error_and_loses_nothing(
    publish: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = set()  # mkdir of a folder that exists may fail unnoticed: nothing is amiss then
    for step in range(1, 200):
        publish("fp32", step + 1000)
        old = repository.read_model("tiny", "fp32")[0].model.sha256
        remaining = [step]
        with monkeypatch.context() as patch:
            for name in FAULTS:
                patch.setattr(os, name, _failing(getattr(os, name), name, remaining))
            try:
                publish("fp32", step)
            except RepositoryError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
            else:
                if remaining[0] > 0:
                    break
        now = repository.read_model("tiny", "fp32")[0].model.sha256
        outcomes.add("old" if now == old else "new")
        leftovers = [path.name for path in repository.root.rglob(f"{TEMPORARY}*")]
        assert leftovers == [], f"step {step}"
    assert step > 20
    assert outcomes == {"old", "new"}


def _failing(original: Callable[..., Any], name: str, remaining: list[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        remaining[0] -= 1
        if remaining[0] != 0:
            return original(*args, **kwargs)
        if name == "close":
            original(*args, **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return call


@pytest.fixture
def stray(tiny_repository: Path) -> Path:
    """A file of an earlier variant that nobody names any more, older than the grace period."""
    path = tiny_repository / "tiny/variants/fp32/model-0123456789ab.onnx"
    path.write_bytes(b"old")
    os.utime(path, (0, 0))
    return path


def test_publishing_a_variant_a_report_or_a_policy_removes_old_garbage(
    publish: Any, publisher: Publisher, repository: Repository, report_of: Any, stray: Path
) -> None:
    fp32 = repository.variant("tiny", "fp32")
    for act in (
        lambda: publish("new", 5),
        lambda: publisher.attach_report("tiny", "fp32", report_of(fp32)),
        lambda: publisher.publish_policy(repository.policy("tiny"), {}),
    ):
        stray.write_bytes(b"old")
        os.utime(stray, (0, 0))
        act()
        assert not stray.exists()
    assert find_problems(repository, "tiny") == []


def test_publishing_keeps_files_replaced_just_now(
    publish: Any, repository: Repository, tiny_repository: Path
) -> None:
    old = tiny_repository / "tiny/variants/fp32" / repository.variant("tiny", "fp32").model.path
    os.utime(old, (0, 0))
    publish("fp32", 5)
    assert old.exists(), "a reader with the old manifest still finds it"


def test_a_failed_garbage_collection_does_not_undo_a_publish(
    publish: Any, repository: Repository, tiny_repository: Path, stray: Path
) -> None:
    (tiny_repository / "tiny/variants/other/variant.json").write_text("{}", encoding="utf-8")
    with structlog.testing.capture_logs() as logs:
        publish("new", 5)
    assert repository.read_model("tiny", "new")[0].name == "new"
    assert stray.exists()
    (entry,) = [entry for entry in logs if entry["event"] == "garbage collection failed"]
    assert entry["log_level"] == "warning"
    assert "tiny/variants/other/variant.json" in entry["problem"]


def test_a_promotion_changes_the_default_and_nothing_else(
    publisher: Publisher, repository: Repository
) -> None:
    before = repository.policy("tiny")
    promoted = publisher.promote("tiny", "other")
    assert repository.policy("tiny") == promoted
    changes = {"default_variant": "other", "previous_default": "fp32"}
    assert promoted == before.model_copy(update=changes)
    assert find_problems(repository, "tiny") == []


def test_a_second_rollback_undoes_the_first(publisher: Publisher, repository: Repository) -> None:
    publisher.promote("tiny", "other")
    assert publisher.roll_back("tiny").default_variant == "fp32"
    assert publisher.roll_back("tiny").default_variant == "other"
    assert repository.policy("tiny").previous_default == "fp32"


def test_promoting_the_default_again_keeps_the_previous_default(
    publisher: Publisher, repository: Repository, tiny_repository: Path
) -> None:
    publisher.promote("tiny", "other")
    stamp = repository.policy_stamp("tiny")
    assert publisher.promote("tiny", "other").previous_default == "fp32"
    assert repository.policy_stamp("tiny") == stamp


def test_without_a_promotion_there_is_no_rollback(publisher: Publisher) -> None:
    with pytest.raises(InvalidInputError, match=r"previous_default: .* 'tiny', which has none"):
        publisher.roll_back("tiny")


def test_a_missing_or_corrupt_variant_is_not_promoted(
    publisher: Publisher, repository: Repository, tiny_repository: Path
) -> None:
    with pytest.raises(NotFoundError, match="unknown policy 'tinny'"):
        publisher.promote("tinny", "other")
    with pytest.raises(NotFoundError, match="unknown variant 'othr', did you mean 'other'"):
        publisher.promote("tiny", "othr")
    model = tiny_repository / "tiny/variants/other" / repository.variant("tiny", "other").model.path
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(RepositoryError, match=r"other/model-.* bytes, its manifest says"):
        publisher.promote("tiny", "other")
    assert not (tiny_repository / "tinny").exists()
    assert repository.policy("tiny").default_variant == "fp32"


def test_rolling_back_to_a_removed_default_is_refused(
    publisher: Publisher, repository: Repository, tiny_repository: Path
) -> None:
    publisher.promote("tiny", "other")
    (tiny_repository / "tiny/variants/fp32/variant.json").unlink()
    with pytest.raises(NotFoundError, match="unknown variant 'fp32'"):
        publisher.roll_back("tiny")
    assert repository.policy("tiny").default_variant == "other"


def test_a_manifest_older_than_promotions_reads_as_never_promoted(
    repository: Repository, tiny_repository: Path
) -> None:
    path = tiny_repository / "tiny/policy.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["previous_default"]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert repository.policy("tiny").previous_default is None
