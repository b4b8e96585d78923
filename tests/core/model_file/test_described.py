from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import zstandard

from builders import make_mlp
from slimq.core.errors import RepositoryError
from slimq.core.model_file.described import add_description, parse_described, read_described
from slimq.core.model_file.properties import split_properties
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository


@pytest.fixture
def repository(tiny_repository: Path) -> Repository:
    return Repository(tiny_repository)


def test_the_model_is_that_of_the_repository(repository: Repository) -> None:
    made = read_described(repository, "tiny", "other")
    _, model = repository.read_model("tiny", "other")
    assert split_properties(made.content, "slimq.")[0] == model
    assert made.file_name == "tiny-other.onnx"
    assert made.description.hashes.model == hashlib.sha256(model).hexdigest()
    assert parse_described(made.content, "x") == made


def test_the_same_variant_gives_the_same_bytes(repository: Repository) -> None:
    first, second = (read_described(repository, "tiny", "fp32") for _ in range(2))
    assert first.content == second.content


def test_a_description_that_is_there_already_is_replaced(repository: Repository) -> None:
    made = read_described(repository, "tiny", "fp32")
    arguments = repository.policy("tiny"), repository.variant("tiny", "fp32")
    assert add_description(*arguments, made.content, None, None).content == made.content


def test_a_stored_model_that_is_compressed_is_decoded(repository: Repository) -> None:
    manifest, model = repository.variant("tiny", "other"), make_mlp(7)
    stored = zstandard.compress(model)
    entry = content_entry("model", ".onnx.zst", stored, len(model))
    changed = manifest.model_copy(update={"model": entry, "report": None})
    Publisher(repository).publish_variant(changed, stored)
    made = read_described(repository, "tiny", "other")
    assert made.content.startswith(model)
    assert made.description.hashes.stored != made.description.hashes.model


def test_a_file_without_a_description_is_refused() -> None:
    with pytest.raises(RepositoryError, match=r"mine.onnx: has no properties slimq\.\*"):
        parse_described(make_mlp(), "mine.onnx")


def test_a_description_of_another_model_is_refused(repository: Repository) -> None:
    made = read_described(repository, "tiny", "fp32")
    _, other = repository.read_model("tiny", "other")
    _, model = repository.read_model("tiny", "fp32")
    with pytest.raises(RepositoryError, match="its model has sha256"):
        parse_described(other + made.content[len(model) :], "mixed.onnx")


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(RepositoryError, match="is not an ONNX model"):
        parse_described(b"\xff", "x.onnx")
