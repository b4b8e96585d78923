"""Where a policy comes from: its training or import, its recipes and the hashes of its files."""

from __future__ import annotations

import json

from slimq.core.manifest import ImportRecord, PolicyManifest, TrainingRecord, VariantManifest
from slimq.core.report import EvaluationProtocol
from slimq.core.text_tables import markdown_table


def origin(manifest: PolicyManifest) -> list[str]:
    """Paragraphs about the policy's training or import."""
    paragraphs = []
    if manifest.imported is not None:
        paragraphs += _imported(manifest.imported)
    if manifest.training is not None:
        paragraphs += _trained(manifest.training)
    if manifest.history:
        steps = ", ".join(
            f"{one.from_sha256[:12]} ({one.from_step:,} steps)" for one in manifest.history
        )
        paragraphs.append(f"Training continued from earlier checkpoints: {steps}.")
    if (source := manifest.source) is not None:
        paragraphs.append(f"The full network is `{source.path}`, sha256 `{source.sha256}`.")
    return paragraphs


def variant_origins(variants: list[VariantManifest]) -> str:
    """A table of recipes and models: one row per variant."""
    lines = [("variant", "recipe", "steps", "precision", "parameters", "sha256 of the model")]
    for variant in variants:
        recipe = variant.recipe
        steps = ", ".join(dict.fromkeys(step.name for step in recipe.steps)) or "–"
        teacher = "" if recipe.teacher is None else f", taught by {recipe.teacher.policy}"
        lines.append(
            (
                f"`{variant.name}`",
                f"{recipe.name}, seed {recipe.seed}{teacher}",
                steps,
                variant.precision,
                f"{variant.parameters:,}",
                f"`{variant.model.sha256}`",
            )
        )
    return markdown_table(lines, names=len(lines[0]))


def protocol_block(protocol: EvaluationProtocol) -> str:
    """The protocol of the evaluation as JSON, with its hash."""
    content = json.dumps(protocol.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return _folded(f"Protocol, sha256 {protocol.digest}", content)


def _imported(record: ImportRecord) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    made = f" (made with {versions})" if versions else ""
    checked = (
        f"Imported from `{record.file}` of {record.format}{made}: {record.algorithm}, "
        f"{record.bytes:,} bytes, sha256 `{record.sha256}`. On {record.states:,} observations its "
        f"Q-values differ from the source's by at most {record.max_error:.1e} of the largest."
    )
    return [checked, *(f"Note of the import: {note}." for note in record.notes)]


def _trained(record: TrainingRecord) -> list[str]:
    published = record.published_step
    at = "" if published is None or published == record.steps else f", published at {published:,}"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    minutes = (
        f"{record.seconds / 60:,.0f} minutes"
        if record.seconds >= 120
        else f"{record.seconds:.0f} seconds"
    )
    trained = (
        f"Trained by slimq with seed {record.seed}: {record.steps:,} agent steps{at}, "
        f"{record.updates:,} updates, {minutes} on {record.hardware}. Versions: {versions}."
    )
    content = json.dumps(record.config, indent=2, ensure_ascii=False)
    return [trained, _folded("Configuration of the training", content)]


def _folded(summary: str, content: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n```json\n{content}\n```\n\n</details>"
