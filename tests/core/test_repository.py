"""Reading the repository: what is there, what is refused, and how it says so."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import build_repository
from slimq.core.errors import NotFoundError, RepositoryError
from slimq.core.manifest import FileEntry
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.core.verification import find_problems

VARIANT = "tiny/variants/fp32/variant.json"


@pytest.fixture
def change(tiny_repository: Path) -> Callable[..., None]:
    """`change(path, **values)` edits a manifest on disk; a value may be a function of the old."""

    def call(path: str, **values: Any) -> None:
        file = tiny_repository / path
        content = json.loads(file.read_text(encoding="utf-8"))
        for key, value in values.items():
            content[key] = value(content[key]) if callable(value) else value
        file.write_text(json.dumps(content), encoding="utf-8")

    return call


@pytest.fixture
def model_path(repository: Repository) -> Path:
    entry = repository.variant("tiny", "fp32").model
    return repository.root / "tiny/variants/fp32" / entry.path


def test_policies_and_variants_are_listed_by_name(repository: Repository) -> None:
    assert repository.policies() == ["tiny", "tiny_frames"]
    assert repository.variants("tiny") == ["fp32", "other"]


def test_what_is_no_policy_is_not_listed(repository: Repository) -> None:
    (repository.root / "notes.txt").write_text("", encoding="utf-8")
    (repository.root / "empty").mkdir()
    (repository.root / ".staging").mkdir()
    (repository.root / ".staging/policy.json").write_text("{}", encoding="utf-8")
    (repository.root / "tiny/variants/unfinished").mkdir()
    assert repository.policies() == ["tiny", "tiny_frames"]
    assert repository.variants("tiny") == ["fp32", "other"]


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"nowhere: cannot be listed: No such file"):
        Repository(tmp_path / "nowhere").policies()


def test_manifests_and_files_are_read_and_verified(repository: Repository) -> None:
    policy = repository.policy("tiny_frames")
    assert policy.observation.shape == (4, 84, 84)
    assert policy.calibration is not None
    content = repository.read_file("tiny_frames", policy.calibration)
    assert hashlib.sha256(content).hexdigest() == policy.calibration.sha256
    manifest, model = repository.read_model("tiny", "other")
    assert hashlib.sha256(model).hexdigest() == manifest.model.sha256
    assert repository.report("tiny", "other") is None


def test_unknown_names_list_what_there_is(repository: Repository) -> None:
    message = r"unknown policy 'tinny', did you mean 'tiny'\?; available: tiny, tiny_frames"
    with pytest.raises(NotFoundError, match=message):
        repository.policy("tinny")
    with pytest.raises(NotFoundError, match="unknown policy 'tinny'"):
        repository.variant("tinny", "fp32")
    with pytest.raises(NotFoundError, match="unknown policy 'tinny'"):
        repository.variants("tinny")
    message = r"unknown variant 'fp322', did you mean 'fp32'\?; available: fp32, other"
    with pytest.raises(NotFoundError, match=message):
        repository.read_model("tiny", "fp322")
    with pytest.raises(NotFoundError, match="unknown variant 'fp16'"):
        repository.report("tiny", "fp16")


NO_SLUGS = [
    "",
    ".",
    "..",
    "../tiny",
    "tiny/../tiny",
    "/etc",
    "tiny\n",
    "TINY",
    "a" * 65,
    "a\0b",
    "é",
]


@pytest.mark.parametrize("name", NO_SLUGS)
def test_names_that_are_no_slugs_never_touch_the_disk(repository: Repository, name: str) -> None:
    for read in (repository.policy, repository.variants):
        with pytest.raises(NotFoundError, match="unknown policy"):
            read(name)
    for read_variant in (repository.variant, repository.read_model, repository.report):
        with pytest.raises(NotFoundError, match="unknown policy"):
            read_variant(name, "fp32")
        with pytest.raises(NotFoundError, match="unknown variant"):
            read_variant("tiny", name)
    assert repository.stamp(name, "fp32") is None
    assert repository.stamp("tiny", name) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(name=st.text(max_size=80))
def test_any_name_is_answered_with_not_found(repository: Repository, name: str) -> None:
    if name not in {"fp32", "other"}:
        with pytest.raises(NotFoundError):
            repository.read_model("tiny", name)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        (VARIANT, {"macss": 1}, "macss: unknown key, did you mean 'macs'"),
        (VARIANT, {"schema_version": 2}, "schema_version: this slimq reads 1, found 2"),
        (VARIANT, {"schema_version": 2, "new": 1}, r"schema_version: .* \(and 1 more\)"),
        (VARIANT, {"opset": 0}, "opset: Input should be greater"),
        (VARIANT, {"name": "other"}, "expected tiny/fp32, as the folders say, found tiny/other"),
        (VARIANT, {"policy": "tiny_frames"}, "expected tiny/fp32"),
        (VARIANT, {"model": lambda old: {**old, "path": "../x.onnx"}}, "model.path: String should"),
        (VARIANT, {"model": lambda old: {**old, "path": "/x.onnx"}}, "model.path: String should"),
        (VARIANT, {"model": lambda old: {**old, "sha": ""}}, "model.sha: unknown key"),
        ("tiny/policy.json", {"schema_version": 0}, "schema_version: this slimq reads 1, found 0"),
        ("tiny/policy.json", {"colour": "red"}, "colour: unknown key"),
        ("tiny/policy.json", {"name": "another"}, "expected 'tiny', as the folder says"),
        ("tiny/policy.json", {"actions": []}, "actions: List should have at least 1 item"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused_by_file_and_key(
    repository: Repository, change: Any, path: str, values: dict[str, Any], message: str
) -> None:
    change(path, **values)
    with pytest.raises(RepositoryError, match=message) as caught:
        repository.policy("tiny") if path.endswith("policy.json") else repository.variant(
            "tiny", "fp32"
        )
    assert caught.value.path == path


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"{}" * 2])
def test_a_manifest_that_is_no_json_object_is_refused(
    repository: Repository, content: bytes
) -> None:
    (repository.root / VARIANT).write_bytes(content)
    with pytest.raises(RepositoryError, match=f"^{VARIANT}: "):
        repository.variant("tiny", "fp32")


def test_a_manifest_that_is_absurdly_large_is_refused_unread(repository: Repository) -> None:
    with (repository.root / VARIANT).open("r+b") as stream:
        stream.truncate(1 << 34)
    with pytest.raises(RepositoryError, match="has 17179869184 bytes, expected at most"):
        repository.variant("tiny", "fp32")


def test_a_tampered_truncated_extended_or_missing_model_is_refused(
    repository: Repository, model_path: Path
) -> None:
    content = model_path.read_bytes()
    place = f"tiny/variants/fp32/{model_path.name}: "
    for broken, message in (
        (content[:-1] + bytes([content[-1] ^ 1]), "has sha256"),
        (content[:-1], f"has {len(content) - 1} bytes, its manifest says {len(content)}"),
        (content + b"x", f"has {len(content) + 1} bytes, expected at most"),
        (b"", "has 0 bytes"),
    ):
        model_path.write_bytes(broken)
        with pytest.raises(RepositoryError, match=place + message):
            repository.read_model("tiny", "fp32")
    model_path.unlink()
    with pytest.raises(RepositoryError, match=place + "is missing"):
        repository.read_model("tiny", "fp32")
    repository.read_model("tiny", "other")


def test_a_missing_or_tampered_policy_file_is_refused(repository: Repository) -> None:
    entry = repository.policy("tiny").calibration
    assert entry is not None
    (repository.root / "tiny" / entry.path).write_bytes(b"x" * entry.bytes)
    with pytest.raises(RepositoryError, match=f"tiny/{entry.path}: has sha256"):
        repository.read_file("tiny", entry)
    (repository.root / "tiny" / entry.path).unlink()
    with pytest.raises(RepositoryError, match="is missing"):
        repository.read_file("tiny", entry)


def test_a_calibration_set_is_read_and_none_where_the_manifest_names_none(
    repository: Repository,
) -> None:
    manifest = repository.policy("tiny_frames")
    calibration = repository.calibration(manifest)
    assert calibration is not None
    assert calibration.observations(manifest.observation).shape == (16, 4, 84, 84)
    assert repository.calibration(manifest.model_copy(update={"calibration": None})) is None


def _npz(**changes: Any) -> bytes:
    arrays: dict[str, Any] = {
        "frames": np.zeros((3, 4), np.float32),
        "indices": np.arange(3, dtype=np.int32)[:, None],
        "q_values": np.zeros((3, 2), np.float32),
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return stream.getvalue()


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 4), np.float32))
    return stream.getvalue()


def _overwritten() -> bytes:
    whole = _npz(frames=np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32))
    return whole[:200] + b"\xff" * 200 + whole[400:]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a calibration set: "),
        (b"junk", "is not a calibration set: "),
        (_npy(), "is not a calibration set: "),
        (_npz()[:-30], "is not a calibration set: "),
        (_overwritten(), "is not a calibration set: "),
        (_npz(indices=None), "is not a calibration set: "),
        (_npz(indices=np.zeros((3, 1), np.float32)), "is not a calibration set: "),
        (_npz(indices=np.int32(0)), "is not a calibration set: "),
        (_npz(indices=np.full((3, 1), 3)), "is not a calibration set: "),
        (_npz(frames=np.zeros((3, 5), np.float32)), "is not a calibration set: "),
        (_npz(indices=np.zeros((0, 1), np.int32)), "calibration: expected a batch of at least 1"),
        (_npz(frames=np.full((3, 4), np.nan)), "calibration[0][0]: expected a finite float32"),
        (_npz(q_values=np.zeros((3, 5))), "q_values: expected shape (3, 2), found (3, 5)"),
    ],
)
def test_a_damaged_calibration_set_is_one_clear_error(
    repository: Repository, publisher: Publisher, content: bytes, problem: str
) -> None:
    entry = content_entry("calibration", ".npz", content)
    manifest = repository.policy("tiny").model_copy(update={"calibration": entry})
    publisher.publish_policy(manifest, {entry.path: content})
    with pytest.raises(RepositoryError) as caught:
        repository.calibration(repository.policy("tiny"))
    assert str(caught.value).startswith(f"tiny/{entry.path}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_name_is_taken_though_its_manifest_is_broken(repository: Repository) -> None:
    assert repository.has_policy("tiny")
    (repository.root / "tiny/policy.json").write_text("{", encoding="utf-8")
    assert repository.has_policy("tiny")
    for name in ("nope", "../policies/tiny", ""):
        assert not repository.has_policy(name)
    assert not Repository(repository.root / "nowhere").has_policy("tiny")


def test_the_folder_of_a_variant_is_known_before_it_is_there(repository: Repository) -> None:
    assert repository.variant_folder("tiny", "new") == repository.root / "tiny/variants/new"
    with pytest.raises(NotFoundError, match="unknown variant"):
        repository.variant_folder("tiny", "../fp32")


def test_an_entry_that_skipped_validation_cannot_leave_the_folder(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    for path in ("../../secret", str(tmp_path / "secret"), "..", "a/b", ".hidden"):
        entry = FileEntry.model_construct(path=path, bytes=1, sha256="0" * 64)
        with pytest.raises(RepositoryError, match="is not a plain file name"):
            repository.read_file("tiny", entry)


LINKED = ["tiny", "tiny/variants", "tiny/variants/fp32", VARIANT, "model"]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("link", LINKED)
def test_a_link_that_leaves_the_root_is_refused_by_name(
    repository: Repository, model_path: Path, tmp_path: Path, link: str, absolute: bool
) -> None:
    path = model_path if link == "model" else repository.root / link
    path.rename(tmp_path / "elsewhere")
    target = tmp_path / "elsewhere"
    path.symlink_to(target if absolute else os.path.relpath(target, path.parent))
    place = path.relative_to(repository.root)
    with pytest.raises(RepositoryError, match="is a symbolic link that leaves the") as caught:
        repository.read_model("tiny", "fp32")
    assert caught.value.path == str(place)
    if link in (VARIANT, "tiny/variants/fp32"):
        assert repository.stamp("tiny", "fp32") is None


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("link", LINKED)
def test_a_link_that_stays_below_the_root_is_followed(
    repository: Repository, model_path: Path, link: str, absolute: bool
) -> None:
    before = repository.read_model("tiny", "fp32")
    path = model_path if link == "model" else repository.root / link
    target = repository.root / "..data" / path.name
    target.parent.mkdir()
    path.rename(target)
    path.symlink_to(target if absolute else os.path.relpath(target, path.parent))
    assert repository.policies() == ["tiny", "tiny_frames"]
    assert repository.variants("tiny") == ["fp32", "other"]
    assert repository.read_model("tiny", "fp32") == before
    assert repository.stamp("tiny", "fp32") is not None
    assert find_problems(repository, "tiny") == []


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../../../../../../../../../../etc/passwd",
        "variants/../../../secret",
        "up/secret",
        "/proc/self/root/etc/passwd",
        "{root}/../secret",
        "{root}-more/secret",
    ],
)
def test_no_link_reads_what_is_outside_the_root(
    repository: Repository, tmp_path: Path, target: str
) -> None:
    root = repository.root
    Path(f"{root}-more").mkdir()
    for secret in (tmp_path / "secret", Path(f"{root}-more") / "secret"):
        secret.write_bytes(b"secret")
    (root / "tiny/up").symlink_to("../..")
    path = root / "tiny/policy.json"
    path.unlink()
    path.symlink_to(target.format(root=root))
    with pytest.raises(RepositoryError, match="that leaves the repository") as caught:
        repository.policy("tiny")
    assert caught.value.path == "tiny/policy.json"
    assert repository.policy_stamp("tiny") is None
    with pytest.raises(RepositoryError, match="that leaves the repository"):
        repository.has_policy("tiny")


def test_links_in_a_loop_and_endless_paths_are_refused_by_name(repository: Repository) -> None:
    path = repository.root / "tiny/policy.json"
    path.unlink()
    path.symlink_to("policy.json")
    message = "^tiny/policy.json: leads through more than 40 symbolic links"
    with pytest.raises(RepositoryError, match=message):
        repository.policy("tiny")
    path.unlink()
    path.symlink_to("other.json")
    path.with_name("other.json").symlink_to("../tiny/policy.json")
    with pytest.raises(RepositoryError, match=message):
        repository.policy("tiny")
    deep = "/".join(["deep"] * 100)
    (repository.root / "tiny" / deep).mkdir(parents=True)
    path.unlink()
    path.symlink_to(f"{deep}/policy.json")
    with pytest.raises(RepositoryError, match="64 folders"):
        repository.policy("tiny")


def test_a_link_that_leads_nowhere_is_as_if_nothing_was_there(repository: Repository) -> None:
    (repository.root / "broken").mkdir()
    (repository.root / "broken/policy.json").symlink_to("..data/policy.json")
    (repository.root / "gone").symlink_to("nowhere")
    assert repository.policies() == ["tiny", "tiny_frames"]
    assert not repository.has_policy("broken")
    assert repository.policy_stamp("gone") is None


def test_a_folder_that_becomes_a_link_after_it_was_checked_leads_nowhere_else(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced between two steps of a read, which goes on in the folder that it has entered."""
    hostile = build_repository(tmp_path / "hostile")
    (hostile / "tiny/policy.json").write_text("{}")
    expected = repository.policy("tiny")
    original = os.open

    def switch(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == "policy.json":
            (repository.root / "tiny").rename(tmp_path / "moved")
            (repository.root / "tiny").symlink_to(hostile / "tiny")
        return original(name, *args, **kwargs)

    with monkeypatch.context() as changed:
        changed.setattr(os, "open", switch)
        changed.setattr(os, "supports_dir_fd", {switch})
        assert repository.policy("tiny") == expected
    with pytest.raises(RepositoryError, match="that leaves the repository"):
        repository.policy("tiny")


def test_where_folders_cannot_be_opened_links_are_refused(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    assert repository.policies() == ["tiny", "tiny_frames"]
    assert repository.variants("tiny") == ["fp32", "other"]
    before = repository.read_model("tiny", "fp32")
    assert repository.stamp("tiny", "fp32") is not None
    assert repository.stamp("tiny", "nope") is None
    path = repository.root / VARIANT
    path.rename(path.with_name("kept.json"))
    path.symlink_to("kept.json")
    with pytest.raises(RepositoryError, match="is a symbolic link, which"):
        repository.read_model("tiny", "fp32")
    monkeypatch.undo()
    assert repository.read_model("tiny", "fp32") == before


def test_the_root_itself_may_be_a_link(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to(repository.root)
    mounted = Repository(tmp_path / "mount")
    assert mounted.read_model("tiny", "fp32") == repository.read_model("tiny", "fp32")


@pytest.mark.parametrize("switched", ["root", "folder"])
def test_a_folder_that_is_emptied_after_its_link_was_switched_is_listed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switched: str
) -> None:
    """As git-sync and Kubernetes do: the new folder, then the link, then the old one's end."""
    for name in ("old", "new"):
        build_repository(tmp_path / "revisions" / name)
    link = tmp_path / "revisions" / "current"
    link.symlink_to("old")
    if switched == "root":
        repository, read = Repository(link), Repository.policies
    else:
        (tmp_path / "revisions" / "tiny").symlink_to("current/tiny")
        repository = Repository(tmp_path / "revisions")

        def read(self: Repository) -> list[str]:
            return self.variants("tiny")

    expected = read(repository)
    original, before = os.listdir, iter([True])

    def switch(path: Any) -> list[str]:
        if next(before, False):
            (tmp_path / "next").symlink_to("new")
            (tmp_path / "next").replace(link)
            shutil.rmtree(tmp_path / "revisions" / "old")
        return original(path)

    monkeypatch.setattr(os, "listdir", switch)
    assert read(repository) == expected
    assert next(before, None) is None


def test_reading_while_a_link_is_switched_again_and_again_misses_nothing(tmp_path: Path) -> None:
    source = build_repository(tmp_path / "source")
    link = tmp_path / "git" / "current"
    link.parent.mkdir()
    ended, switches = threading.Event(), list[str]()

    def switch() -> None:
        old = link.readlink() if link.is_symlink() else None
        new = f"rev-{len(switches)}"
        shutil.copytree(source, link.with_name(new))
        link.with_name("next").symlink_to(new)
        link.with_name("next").replace(link)
        if old is not None:
            shutil.rmtree(link.parent / old)
        switches.append(new)

    def switch_until_ended() -> None:
        while not ended.is_set():
            switch()

    switch()
    repository = Repository(link)
    expected = repository.read_model("tiny", "fp32")
    switching = threading.Thread(target=switch_until_ended)
    switching.start()
    try:
        while len(switches) < 25 and switching.is_alive():
            assert repository.policies() == ["tiny", "tiny_frames"]
            assert repository.variants("tiny") == ["fp32", "other"]
            assert repository.read_model("tiny", "fp32") == expected
            assert repository.stamp("tiny", "other") is not None
    finally:
        ended.set()
        switching.join()
    assert len(switches) >= 25


def test_what_is_no_regular_file_is_refused_without_waiting(
    repository: Repository, model_path: Path
) -> None:
    model_path.unlink()
    os.mkfifo(model_path)
    with pytest.raises(RepositoryError, match="is not a regular file"):
        repository.read_model("tiny", "fp32")
    model_path.unlink()
    model_path.mkdir()
    with pytest.raises(RepositoryError, match=r"is not a regular file|Is a directory"):
        repository.read_model("tiny", "fp32")


class TestCompressedModels:
    @pytest.fixture
    def refuse(
        self, repository: Repository, variant_manifest: Any
    ) -> Callable[[bytes, int | None, str], None]:
        def call(stored: bytes, stated: int | None, message: str) -> None:
            entry = content_entry("model", ".onnx.zst", stored, uncompressed_bytes=stated)
            folder = repository.root / "tiny/variants/fp32"
            (folder / entry.path).write_bytes(stored)
            manifest = variant_manifest("tiny", "fp32", entry)
            (folder / "variant.json").write_text(manifest.model_dump_json(), encoding="utf-8")
            with pytest.raises(RepositoryError, match=message):
                repository.read_model("tiny", "fp32")
            with pytest.raises(RepositoryError, match=message):
                Publisher(repository).publish_variant(manifest, stored)

        return call

    def test_a_bomb_is_stopped_at_the_stated_size(self, refuse: Any) -> None:
        bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
        assert len(bomb) < 1 << 16
        refuse(bomb, 1000, "decompresses to more than the 1000 bytes")

    def test_a_bomb_whose_header_lies_is_stopped_too(self, refuse: Any) -> None:
        compressor = zstandard.ZstdCompressor(write_content_size=False)
        refuse(compressor.compress(bytes(1 << 24)), 1000, "decompresses to more than the 1000")

    def test_a_second_frame_counts(self, refuse: Any) -> None:
        frame = zstandard.ZstdCompressor().compress(b"x" * 600)
        refuse(frame + frame, 600, "more than the 600 bytes")

    def test_too_little_is_refused(self, refuse: Any) -> None:
        content = np.random.default_rng(0).bytes(5000)
        stored = zstandard.ZstdCompressor().compress(content)
        refuse(stored, 5001, "decompresses to 5000 bytes, its manifest says 5001")
        refuse(stored[:-100], 5000, "decompresses to|is not valid zstd")

    def test_what_is_not_zstd_is_refused(self, refuse: Any) -> None:
        refuse(b"not zstd at all", 5, "is not valid zstd")

    def test_the_size_must_be_stated(self, refuse: Any) -> None:
        refuse(zstandard.ZstdCompressor().compress(b"x"), None, "lacks uncompressed_bytes")
        refuse(zstandard.ZstdCompressor().compress(b"x"), 1 << 40, "expected at most 2147483647")


def test_a_plain_model_states_no_uncompressed_size(repository: Repository, change: Any) -> None:
    change(VARIANT, model=lambda old: {**old, "uncompressed_bytes": 5})
    with pytest.raises(RepositoryError, match=r"states uncompressed_bytes but is not a \.zst"):
        repository.read_model("tiny", "fp32")


def test_reading_plain_models_needs_neither_zstandard_nor_onnxruntime(
    repository: Repository,
) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from slimq.core.repository import Repository\n"
        "Repository(Path(sys.argv[1])).read_model('tiny', 'fp32')\n"
        "print([m for m in ('zstandard', 'onnxruntime', 'onnx', 'torch') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(repository.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_report_about_another_model_is_refused(
    repository: Repository, publisher: Publisher, report_of: Any, change: Any
) -> None:
    manifest = publisher.attach_report(
        "tiny", "fp32", report_of(repository.variant("tiny", "fp32"))
    )
    other = repository.variant("tiny", "other").model
    source = repository.root / "tiny/variants/other" / other.path
    (repository.root / "tiny/variants/fp32" / other.path).write_bytes(source.read_bytes())
    change(VARIANT, model=other.model_dump(mode="json"))
    assert manifest.report is not None
    place = f"tiny/variants/fp32/{manifest.report.path}"
    with pytest.raises(RepositoryError, match=f"{place}: model_sha256: is not that"):
        repository.report("tiny", "fp32")


def test_a_stamp_changes_though_size_and_modification_time_stay(repository: Repository) -> None:
    path = repository.root / VARIANT
    before, times = repository.stamp("tiny", "fp32"), path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"fp32", b"fp33"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = repository.stamp("tiny", "fp32")
    assert before is not None
    assert changed is not None
    assert (changed.size, changed.modified) == (before.size, before.modified)
    assert changed != before
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)
    replaced = repository.stamp("tiny", "fp32")
    assert replaced is not None
    assert (replaced.size, replaced.modified) == (before.size, before.modified)
    assert replaced.inode != changed.inode


def test_a_manifest_gives_its_own_report_after_a_newer_one_was_published(
    repository: Repository, publisher: Publisher, report_of: Any
) -> None:
    assert repository.report_of(repository.variant("tiny", "fp32")) is None
    first = report_of(repository.variant("tiny", "fp32"))
    manifest = publisher.attach_report("tiny", "fp32", first)
    second = first.model_copy(update={"versions": {"slimq": "1"}})
    publisher.attach_report("tiny", "fp32", second)
    assert repository.report_of(manifest) == first
    assert repository.report("tiny", "fp32") == second


def test_models_and_reports_have_stamps(
    repository: Repository, publisher: Publisher, report_of: Any
) -> None:
    variant = repository.variant("tiny", "fp32")
    manifest = publisher.attach_report("tiny", "fp32", report_of(variant))
    assert manifest.report is not None
    for entry in (manifest.model, manifest.report):
        (stamp,) = repository.stamps("tiny", [("fp32", entry.path)])
        assert stamp is not None
        assert stamp.size == entry.bytes
    (repository.root / "tiny/variants/fp32" / manifest.report.path).unlink()
    names = [manifest.model.path, manifest.report.path, "../fp32/variant.json", "none"]
    stamps = repository.stamps("tiny", [("fp32", name) for name in names])
    assert [stamp is not None for stamp in stamps] == [True, False, False, False]


def test_a_stamp_changes_when_a_variant_is_published_again(
    repository: Repository, publisher: Publisher
) -> None:
    before = repository.stamp("tiny", "fp32")
    manifest, model = repository.read_model("tiny", "fp32")
    assert before is not None
    assert repository.stamp("tiny", "fp32") == before
    publisher.publish_variant(manifest, model)
    assert repository.stamp("tiny", "fp32") not in {before, None}
    assert repository.stamp("tiny", "nope") is None


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`refuse(path)`: as for a user without rights; tests may run as one who has all."""

    def forbid(function: Any, path: Path) -> Any:
        def call(asked: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
            folder = Path() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
            if not isinstance(asked, int) and (folder / asked).is_relative_to(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(asked))
            return function(asked, *args, dir_fd=dir_fd, **kwargs)

        return call

    def change(path: Path) -> None:
        for name in ("stat", "open"):
            call = forbid(getattr(os, name), path)
            monkeypatch.setattr(os, name, call)
            if name == "open":
                monkeypatch.setattr(os, "supports_dir_fd", {call})

    return change


def test_an_unreadable_policy_is_named_and_does_not_hide_the_others(
    repository: Repository, refuse: Callable[[Path], None]
) -> None:
    refuse(repository.root / "tiny_frames/policy.json")
    assert repository.policies() == ["tiny", "tiny_frames"]
    assert repository.read_model("tiny", "fp32")[0].name == "fp32"
    message = r"^tiny_frames/policy\.json: cannot be read: Permission denied$"
    for read in (repository.policy, repository.variants):
        with pytest.raises(RepositoryError, match=message):
            read("tiny_frames")
    with pytest.raises(NotFoundError, match="available: tiny, tiny_frames"):
        repository.policy("pong")


def test_an_unreadable_variant_is_named_and_does_not_hide_the_others(
    repository: Repository, refuse: Callable[[Path], None]
) -> None:
    refuse(repository.root / "tiny/variants/fp32/variant.json")
    assert repository.variants("tiny") == ["fp32", "other"]
    problem = "tiny/variants/fp32/variant.json: cannot be read: Permission denied"
    with pytest.raises(RepositoryError, match=f"^{problem}$"):
        repository.read_model("tiny", "fp32")
    assert list(map(str, find_problems(repository, "tiny"))) == [problem]


def test_a_folder_of_variants_that_cannot_be_looked_at_is_named(
    repository: Repository, refuse: Callable[[Path], None]
) -> None:
    refuse(repository.root / "tiny/variants")
    with pytest.raises(RepositoryError, match=r"^tiny/variants: cannot be read: Permission"):
        repository.variants("tiny")


def test_without_rights_on_a_folder_its_policy_is_named(repository: Repository) -> None:
    import subprocess
    import sys

    code = (
        "import os, sys; from pathlib import Path; from slimq.core.errors import RepositoryError\n"
        "from slimq.core.repository import Repository\n"
        "os.chdir(sys.argv[1])\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "repository = Repository(Path())\n"
        "print(repository.policies(), repository.variants('tiny'))\n"
        "try: repository.policy('tiny_frames')\n"
        "except RepositoryError as error: print(error)\n"
    )
    locked = repository.root / "tiny_frames"
    repository.root.chmod(0o755)
    locked.chmod(0)
    try:
        command = [sys.executable, "-c", code, str(repository.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        locked.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['tiny', 'tiny_frames'] ['fp32', 'other']",
        "tiny_frames/policy.json: cannot be read: Permission denied",
    ]


def test_refusing_a_folder_or_a_pipe_leaves_no_descriptor_open(
    repository: Repository, model_path: Path
) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    model_path.unlink()
    for make, remove in ((os.mkdir, os.rmdir), (os.mkfifo, os.unlink)):
        make(model_path)
        with pytest.raises(RepositoryError, match="is not a regular file"):
            repository.read_model("tiny", "fp32")
        remove(model_path)
    assert len(list(descriptors.iterdir())) == before


def test_a_policy_stamp_changes_when_the_policy_is_published_again(
    repository: Repository, publisher: Publisher
) -> None:
    before = repository.policy_stamp("tiny")
    assert before is not None
    assert repository.policy_stamp("tiny") == before
    publisher.publish_policy(repository.policy("tiny"), {})
    assert repository.policy_stamp("tiny") not in {before, None}
    assert repository.policy_stamp("nope") is None
    assert repository.policy_stamp("../policies/tiny") is None


def test_a_model_that_is_larger_than_the_reader_wants_is_not_read(
    repository: Repository, model_path: Path, change: Any
) -> None:
    size = model_path.stat().st_size
    assert Repository(repository.root, size).read_model("tiny", "fp32")
    model_path.unlink()
    with pytest.raises(RepositoryError, match=f"has {size} bytes .*expected at most {size - 1}"):
        Repository(repository.root, size - 1).read_model("tiny", "fp32")
    change(VARIANT, model=lambda old: {**old, "path": "m.onnx.zst", "uncompressed_bytes": 2**31})
    with pytest.raises(RepositoryError, match="has 2147483648 bytes"):
        repository.read_model("tiny", "fp32")
