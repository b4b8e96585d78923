from __future__ import annotations

import pytest

from slimq.core.errors import InvalidInputError
from slimq_service.http.query import read_query


def test_names_and_values_come_in_their_order() -> None:
    assert list(read_query(b"", ["a"])) == []
    found = [("b", "x,y"), ("a", ""), ("b", "z w")]
    assert list(read_query(b"b=x,y&a=&b=z%20w", ["a", "b"])) == found
    assert len(list(read_query(b"a=%ff%00", ["a"]))) == 1


@pytest.mark.parametrize(
    ("known", "expected"),
    [(["variant"], "only the parameter variant"), (["variant", "x"], "only variant and x")],
)
def test_an_unknown_name_is_refused_with_the_known_ones(known: list[str], expected: str) -> None:
    with pytest.raises(InvalidInputError, match="did you mean 'variant'") as caught:
        list(read_query(b"variant=a&varaint=b", known))
    assert (caught.value.field, caught.value.expected) == ("query", expected)
