from __future__ import annotations

import pytest

from slimq.core.errors import InvalidInputError
from slimq_service.errors import ConflictError
from slimq_service.requests.variant_choice import choose, query_variant


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
    assert choose(path=None, query=None, body=None) is None
    assert choose(path="a", query="a", body=None) == choose(body="a") == "a"
    assert choose(path=None, query="") == "", "an empty name is a name, and unknown"


def test_two_places_must_not_name_different_variants() -> None:
    with pytest.raises(ConflictError, match="'a' by path and 'b' by query"):
        choose(path="a", query="b")
    with pytest.raises(ConflictError, match="'a' by query and 'b' by body"):
        choose(path=None, query="a", body="b")
