"""The tables of docs/devices.md: every shipped variant is in them, with figures that come again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from c_exports import needs_boards
from devices import PAGE, ROOT, main, run_variant
from slimq.core.repository import Repository
from slimq_compression.export.options import Options

MARKERS = "\n".join(
    f"<!-- {side} {name} -->" for name in ("large", "small") for side in ("begin", "end")
)


def section(page: str, name: str) -> list[str]:
    _, _, rest = page.partition(f"<!-- begin {name} -->")
    return rest.partition(f"<!-- end {name} -->")[0].strip().splitlines()


def shipped() -> set[tuple[str, str]]:
    repository = Repository(ROOT / "policies")
    return {(p, v) for p in repository.policies() for v in repository.variants(p)}


def test_every_shipped_variant_is_in_the_table_or_refused_with_a_reason() -> None:
    lines = section(PAGE.read_text(encoding="utf-8"), "large")
    rows = [re.match(r"\| `(.+?)` \| `(.+?)` \|", line) for line in lines]
    refused = [re.match(r"- `(.+?)` `(.+?)`: .{20,}", line) for line in lines]
    assert {(m[1], m[2]) for m in (*rows, *refused) if m} == shipped()


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("int4-blocks", "the operator com.microsoft.MatMulNBits"),
        ("int8", "about 1,7"),
    ],
)
def test_what_is_refused_has_its_reason(variant: str, reason: str) -> None:
    options = Options(max_flash=512_000, max_ram=128_000)
    found = run_variant(Repository(ROOT / "policies"), ("pong", variant), "cortex-m4", options)
    assert isinstance(found, str)
    assert found.startswith(reason)


@pytest.mark.slow
@needs_boards
def test_the_figures_come_again_and_others_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(MARKERS)
    arguments = ["--policy", "frozenlake", "--page", str(page)]
    main([*arguments, "--write"])
    main([*arguments, "--check"])
    written, published = page.read_text(), PAGE.read_text(encoding="utf-8")
    for name in ("large", "small"):
        rows = [line for line in section(written, name) if line.startswith("| `frozenlake`")]
        assert rows
        assert set(rows) <= set(section(published, name)), "run benchmarks/devices.py --write"
    page.write_text(written.replace("| `fp32` | 77,847 |", "| `fp32` | 77,848 |"))
    with pytest.raises(SystemExit, match="has other figures; run it with --write"):
        main([*arguments, "--check"])
    assert capsys.readouterr().out == ""


def test_without_the_tools_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit, match="arm-none-eabi-gcc and qemu-system-arm are needed"):
        main([])
