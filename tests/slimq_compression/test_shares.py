from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from slimq_compression.shares import Limit, is_share, resolve


class Model(BaseModel):
    model_config = ConfigDict(strict=True)

    limit: Limit


@pytest.mark.parametrize(
    ("given", "kept", "resolved"),
    [
        (1_000, 1_000, 1_000),
        (1e6, 1_000_000, 1_000_000),
        ("1/8", "1/8", 125),
        ("3/7", "3/7", 428),
        (0.125, 0.125, 125),
        (0.1, 0.1, 100),
        (1.0, 1.0, 1_000),
        ("1/5000", "1/5000", 1),
    ],
)
def test_a_limit_stays_as_it_was_written_and_a_share_is_of_the_whole(
    given: Any, kept: Any, resolved: int
) -> None:
    limit = Model(limit=given).limit
    assert (limit, type(limit)) == (kept, type(kept))
    assert Model(limit=given).model_dump(mode="json") == {"limit": kept}
    assert resolve(limit, 1_000) == resolved
    assert is_share(limit) == (not isinstance(kept, int))


@pytest.mark.parametrize(
    "given",
    [0, -1, 1.5, 0.0, float("nan"), float("inf"), True, "8", "9/8", "0/8", "1/0", "1 / 8", []],
)
def test_what_is_neither_a_number_nor_a_share_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(ValidationError) as error:
        Model(limit=given)
    assert error.value.errors()[0]["msg"] == (
        'Value error, expected an integer of at least 1, or a share such as "1/8" or 0.125, '
        f"received {given!r}"
    )
