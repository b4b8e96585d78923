"""Model files with a description: made from a repository, and read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from slimq.core._protobuf import check_model
from slimq.core.errors import RepositoryError
from slimq.core.evidence import Judgement, read_judgement
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.model_file.description import PREFIX, ModelDescription, describe_model
from slimq.core.model_file.properties import add_properties, split_properties
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository


@dataclass(frozen=True)
class DescribedModel:
    """A self-describing model file.

    Attributes:
        description: the description in the file.
        content: the ONNX file: the model's own bytes, then the description.
    """

    description: ModelDescription
    content: bytes

    @property
    def file_name(self) -> str:
        """The name of the file, such as `pong-tiny.onnx`."""
        return f"{self.description.policy.name}-{self.description.variant.name}.onnx"


def add_description(
    policy: PolicyManifest,
    variant: VariantManifest,
    model: bytes,
    report: EvaluationReport | None,
    judgement: Judgement | None,
) -> DescribedModel:
    """Adds a description to a model; an existing one is replaced.

    Args:
        policy: the policy's manifest.
        variant: the variant's manifest.
        model: the ONNX model, uncompressed.
        report: the variant's report, if it has been evaluated.
        judgement: its comparison with the full policy, if it was played.

    Raises:
        RepositoryError: it is not an ONNX model, or must not be loaded.
    """
    place = f"{policy.name}/{variant.name}/{variant.model.path}"
    own, _ = _split(model, place)
    description = describe_model(policy, variant, own, report, judgement)
    return DescribedModel(description, add_properties(own, description.properties()))


def read_described(
    repository: Repository, policy: str, variant: str, max_draws: int | None = None
) -> DescribedModel:
    """Reads a variant, verified and decompressed, and adds its description.

    Args:
        repository: the repository.
        policy: the policy's name.
        variant: the variant's name.
        max_draws: maximum number of returns that bootstraps may draw; see `judge`.

    Raises:
        NotFoundError: there is no such policy or variant.
        RepositoryError: a file is missing, invalid or tampered with.
    """
    manifest = repository.policy(policy)
    found, model = repository.read_model(policy, variant)
    report = repository.report_of(found)
    judgement = read_judgement(repository, manifest, found, report, max_draws)
    return add_description(manifest, found, model, report, judgement)


def parse_described(content: bytes, place: str) -> DescribedModel:
    """Reads a self-describing model file.

    Args:
        content: the ONNX file.
        place: name of the file in errors.

    Raises:
        RepositoryError: it has no description, or describes another model.
    """
    own, properties = _split(content, place)
    description = ModelDescription.parse(properties, place)
    digest = hashlib.sha256(own).hexdigest()
    if digest != description.hashes.model:
        problem = f"its model has sha256 {digest}, its description says {description.hashes.model}"
        raise RepositoryError(place, problem)
    return DescribedModel(description, content)


def _split(model: bytes, place: str) -> tuple[bytes, dict[str, str]]:
    check_model(model, place)
    try:
        return split_properties(model, PREFIX)
    except ValueError as error:
        raise RepositoryError(place, f"is not an ONNX model: {error}") from error
