from __future__ import annotations

from pathlib import Path

import pytest

from slimq.core.errors import ConfigError
from slimq_service.settings_reading import read_settings, unknown_variables


def test_variables_are_read_and_flags_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_PORT", "9001")
    monkeypatch.setenv("SLIMQ_POLICIES", "/somewhere")
    settings = read_settings(port=9002, policies=None)
    assert settings.port == 9002
    assert settings.policies == Path("/somewhere")


def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_MAX_BATCH", "many")
    with pytest.raises(ConfigError, match=r"SLIMQ_MAX_BATCH.*received 'many'"):
        read_settings()


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match="SLIMQ_MAX_BACH"):
        read_settings(max_bach=3)


def test_variables_that_nothing_reads_are_found_with_the_nearest() -> None:
    names = ["PATH", "SLIMQ_URL", "SLIMQ_PORT", "slimq_host", "SLIMQ_MAX_BACH", "SLIMQ_COLOUR"]
    assert unknown_variables(names) == {"SLIMQ_MAX_BACH": "SLIMQ_MAX_BATCH", "SLIMQ_COLOUR": None}


def test_variables_of_other_commands_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_URL", "http://elsewhere")
    assert read_settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "most"), [("batch_observations", 1024), ("queue_requests", 10**6)]
)
def test_what_costs_memory_has_a_limit_that_it_can_be_paid_at(name: str, most: int) -> None:
    """Every power of two up to `batch_observations` is run once as a variant is loaded."""
    assert getattr(read_settings(**{name: most}), name) == most
    with pytest.raises(ConfigError, match=f"SLIMQ_{name.upper()}"):
        read_settings(**{name: most + 1})


def test_execution_providers_are_a_list_of_known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().providers == ("cpu",)
    monkeypatch.setenv("SLIMQ_PROVIDERS", "openvino,cpu")
    assert read_settings().providers == ("openvino", "cpu")
    monkeypatch.setenv("SLIMQ_PROVIDERS", "cude")
    with pytest.raises(ConfigError, match=r"SLIMQ_PROVIDERS: .*'cude', did you mean 'cuda'"):
        read_settings()
