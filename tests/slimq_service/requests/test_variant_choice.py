from __future__ import annotations

import pytest

from slimq.core.errors import InvalidInputError
from slimq_service.errors import ConflictError
from slimq_service.requests.variant_choice import Choice, choice, choose, query_variant


def test_queries_are_read_strictly() -> None:
    assert query_variant(b"") is None
    assert query_variant(b"variant=int8&variant=int8") == "int8"
    with pytest.raises(ConflictError, match="'a' and 'b'"):
        query_variant(b"variant=a&variant=b")
    with pytest.raises(InvalidInputError, match="did you mean 'variant'") as caught:
        query_variant(b"varaint=a")
    assert caught.value.expected == "only the parameter variant", "the hint is no data"
    assert query_variant(b"variant=%ff%00") is not None


def test_a_variant_may_be_named_anywhere_and_twice_alike() -> None:
    assert choice(None, b"").named is None
    assert choice("a", b"variant=a") == Choice("a", "a")
    assert choice(None, b"variant=").named == "", "an empty name is a name, and unknown"
    assert Choice().with_body("a") == Choice("a").with_body(None) == "a"
    assert choose({"path": None, "body": None}) is None


def test_two_places_must_not_name_different_variants() -> None:
    with pytest.raises(ConflictError, match="'a' by path and 'b' by query"):
        choice("a", b"variant=b")
    with pytest.raises(ConflictError, match="'a' by query and 'b' by body"):
        Choice(query="a").with_body("b")
