"""What does not fit or lacks an operator is refused, with the variants to take instead."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from c_exports import export, needs_boards, shipped_model
from network_kinds import KINDS, layout_of, make_kind
from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.networks.export import export_onnx
from slimq_compression.export.c.compilers import measure
from slimq_compression.export.c.limits import estimate
from slimq_compression.export.c.source import write_sources
from slimq_compression.export.lowering.lower import lower


def test_a_variant_that_does_not_fit_is_refused_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError) as error:
        export("pong", "fp32", tmp_path / "out", max_flash=64_000, max_ram=64_000)
    message = str(error.value)
    assert message.startswith("pong/fp32 needs about 6,7")
    assert "--max-flash is 64,000 and --max-ram is 64,000. Variants that fit: tiny (2" in message
    assert "fastest" not in message
    assert list(tmp_path.iterdir()) == []


def test_ram_is_limited_too(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"Variants that fit: none$"):
        export("cartpole", "micro", tmp_path / "out", max_ram=20)


@needs_boards
def test_what_fits_only_as_compiled_is_accepted_and_named(tmp_path: Path) -> None:
    """Estimates of its flash and RAM, without a compiler, are above both limits."""
    options = {"cpu": "cortex-m0plus", "max_flash": 4_000, "max_ram": 200}
    report = export("cartpole", "micro", tmp_path / "out", **options)
    with pytest.raises(CheckFailedError) as error:
        export("cartpole", "fp32", tmp_path / "other", **options)
    fits = f"micro ({report.flash.bytes:,} and {report.ram.bytes:,})"
    assert fits in str(error.value).partition("Variants that fit: ")[2]
    assert "int8" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("variant", ["int4-blocks", "qat-int4"])
def test_an_operator_that_the_target_lacks_is_named_with_what_does_without(
    variant: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError) as error:
        export("pong", variant, tmp_path / "out")
    message = str(error.value)
    assert message.startswith(
        "variant: expected one without the operator com.microsoft.MatMulNBits, which the target c "
        f"lacks, received pong/{variant}; these do without it: deep-compression, dense-control, "
    )
    _, _, others = message.partition("; these do without it: ")
    assert not {"int4-blocks", "qat-int4"} & set(others.split(", "))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("policy", "variant"),
    [("pong", "tiny"), ("cartpole", "sparse-obd"), ("mountaincar", "whole-int8")],
)
def test_estimates_of_constants_and_state_are_not_too_small(policy: str, variant: str) -> None:
    network = lower(*shipped_model(policy, variant))
    least, sources = estimate(network), write_sources(network, "policy", "A test.")
    assert sources.constant_bytes <= least.constants <= 1.2 * sources.constant_bytes + 64
    assert 0 < least.weights <= sources.constant_bytes
    assert least.state == sources.state_bytes


@pytest.mark.slow
@needs_boards
@pytest.mark.parametrize("optimize", ["size", "speed"])
@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4"])
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_are_not_smaller_than_what_a_compiler_makes(
    kind: str, cpu: str, optimize: str, tmp_path: Path
) -> None:
    model = onnx.load_model_from_string(export_onnx(make_kind(kind)))
    network = lower(model, layout_of(kind), KINDS[kind].actions)
    sources = write_sources(network, "policy", "A test.")
    (tmp_path / "policy.h").write_text(sources.header)
    (tmp_path / "policy.c").write_text(sources.source)
    size, least = measure(tmp_path, "policy", cpu, optimize, tmp_path), estimate(network)
    assert size is not None
    assert sources.constant_bytes < size.flash <= least.flash
    assert size.stack <= least.stack
    assert size.ram <= least.libraries
    assert (size.ram > 0) == ("#include <math.h>" in sources.source)
