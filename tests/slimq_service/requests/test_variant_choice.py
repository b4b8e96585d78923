from __future__ import annotations

import pytest

from slimq.core.errors import InvalidInputError
from slimq_service.errors import ConflictError
from slimq_service.requests.variant_choice import choose, query_variant


def test_unknown_query_parameters_are_refused() -> None:
    assert query_variant(b"") is None
    assert query_variant(b"variant=int8&variant=int8") == "int8"
    with pytest.raises(ConflictError, match="'a' and 'b'"):
        query_variant(b"variant=a&variant=b")
    with pytest.raises(InvalidInputError, match="did you mean 'variant'") as caught:
        query_variant(b"varaint=a")
    assert caught.value.expected == "only the parameter variant", "the hint is no data"
    assert query_variant(b"variant=%ff%00") is not None


def test_a_variant_may_be_named_anywhere_and_repeatedly() -> None:
    assert choose(path=None, query=None, body=None) is None
    assert choose(path="a", query="a", body=None) == choose(body="a") == "a"
    assert choose(path=None, query="") == "", "an empty name is a name, and unknown"


def test_path_query_and_body_must_not_name_different_variants() -> None:
    with pytest.raises(ConflictError, match="'a' in the path and 'b' in the query"):
        choose(path="a", query="b")
    with pytest.raises(ConflictError, match="'a' in the query and 'b' in the body"):
        choose(path=None, query="a", body="b")
