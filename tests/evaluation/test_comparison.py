from __future__ import annotations

import pytest

from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.evaluation.comparison import compare_variants


@pytest.fixture
def repository(tiny_repository):
    return Repository(tiny_repository)


@pytest.fixture
def attach(repository, make_report):
    def attach(variant, returns, **changes):
        values = {
            "model_sha256": repository.variant("tiny", variant).model.sha256,
            "baseline_sha256": repository.variant("tiny", "fp32").model.sha256,
        }
        report = make_report(variant, returns, **(values | changes))
        Publisher(repository).attach_report("tiny", variant, report)

    return attach


def test_variants_are_compared_with_the_baseline_on_reading(repository, attach):
    attach("fp32", [100.0, 120.0] * 10, p50=30.0)
    attach("other", [99.0, 119.0] * 10, p50=10.0)
    comparison = compare_variants(repository, "tiny")
    assert [row.variant for row in comparison.rows] == ["fp32", "other"]
    full, other = comparison.rows
    assert full.smaller == 1.0
    assert full.difference.low == 0.0
    sizes = [repository.variant("tiny", name).model.bytes for name in ("fp32", "other")]
    assert other.smaller == sizes[0] / sizes[1]
    random = repository.policy("tiny").random_policy.mean
    assert other.difference.mean == pytest.approx(-1 / (110 - random))
    assert other.difference.non_inferior
    assert other.find_latency("alone", 1).faster == pytest.approx(3.0)
    assert other.fidelity.agreement == 0.97
    assert comparison.processor == "test processor"
    assert comparison.protocol.episodes == 20
    assert not other.notes


def test_a_variant_without_a_report_is_listed_with_the_next_command(repository):
    comparison = compare_variants(repository, "tiny")
    assert [row.mean for row in comparison.rows] == [None, None]
    assert comparison.rows[1].notes == ("not evaluated: run slimq evaluate tiny",)
    assert comparison.protocol is None


def test_latency_of_another_run_gives_no_ratio(repository, attach):
    attach("fp32", [100.0, 120.0], p50=30.0)
    attach("other", [99.0, 119.0], p50=10.0, run_id="later")
    latency = compare_variants(repository, "tiny").rows[1].find_latency("alone", 1)
    assert latency.p50_us == 10.0
    assert latency.faster is None


def test_agreement_with_another_baseline_is_not_shown(repository, attach):
    attach("fp32", [100.0, 120.0])
    attach("other", [99.0, 119.0], baseline_sha256="9" * 64)
    row = compare_variants(repository, "tiny").rows[1]
    assert row.fidelity is None
    assert row.difference is not None
    assert "another baseline" in row.notes[0]


def test_another_protocol_gives_no_difference(repository, attach):
    attach("fp32", [100.0, 120.0])
    attach("other", [99.0, 119.0], epsilon=0.05)
    row = compare_variants(repository, "tiny").rows[1]
    assert row.difference is None
    assert row.mean == 109.0
    assert "evaluate both again" in row.notes[0]


def test_a_broken_manifest_is_named_and_the_others_are_compared(repository, attach):
    attach("fp32", [100.0, 120.0])
    (repository.root / "tiny" / "variants" / "other" / "variant.json").write_text("{")
    comparison = compare_variants(Repository(repository.root), "tiny")
    assert [row.variant for row in comparison.rows] == ["fp32"]
    assert list(comparison.failed) == ["other"]


def test_play_with_other_library_versions_is_noted(repository, attach):
    attach("fp32", [100.0, 120.0], versions={"slimq": "0", "ale-py": "1"})
    attach("other", [99.0, 119.0], versions={"slimq": "1", "ale-py": "2"})
    full, other = compare_variants(repository, "tiny").rows
    assert not full.notes
    assert other.notes == ("played with another version of ale-py than fp32: evaluate both again",)


def test_a_variant_of_another_checkpoint_is_noted_and_not_compared(repository, attach):
    attach("fp32", [100.0, 120.0])
    attach("other", [99.0, 119.0])
    checkpoint = content_entry("checkpoint", ".safetensors", b"weights")
    policy = repository.policy("tiny").model_copy(update={"checkpoint": checkpoint})
    publisher = Publisher(repository)
    publisher.publish_policy(policy, {checkpoint.path: b"weights"})
    for name, parent in (("fp32", checkpoint.sha256), ("other", "0" * 64)):
        manifest, model = repository.read_model("tiny", name)
        publisher.publish_variant(manifest.model_copy(update={"parent": parent}), model)
    full, other = compare_variants(repository, "tiny").rows
    assert not full.notes
    assert full.difference is not None
    assert other.difference is None
    assert other.fidelity is None
    assert "slimq compress tiny other" in other.notes[0]
    assert "not compared: fp32 was made from another checkpoint" in other.notes
