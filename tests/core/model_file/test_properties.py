from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest

from builders import make_mlp
from slimq.core.model_file.properties import add_properties, split_properties

LONG = "ü" * 20_000
"""Its length takes three bytes."""


def test_properties_are_read_back_by_onnx_and_its_runtime() -> None:
    model = make_mlp()
    found = add_properties(model, {"slimq.a": "1", "slimq.long": LONG})
    parsed = onnx.load_from_string(found)
    expected = {"slimq.a": "1", "slimq.long": LONG}
    assert {entry.key: entry.value for entry in parsed.metadata_props} == expected
    assert ort.InferenceSession(found).get_modelmeta().custom_metadata_map == expected
    assert parsed.graph == onnx.load_from_string(model).graph


def test_the_models_own_bytes_stay_as_they_are() -> None:
    model = make_mlp()
    found = add_properties(model, {"slimq.a": "1"})
    assert found.startswith(model)
    assert split_properties(found, "slimq.") == (model, {"slimq.a": "1"})


def test_properties_of_others_stay_wherever_they_are() -> None:
    parsed = onnx.load_from_string(make_mlp())
    for key, value in (("author", "me"), ("slimq.a", "1"), ("empty", "")):
        parsed.metadata_props.add(key=key, value=value)
    parsed.functions.add(name="behind", domain="them")
    rest, found = split_properties(parsed.SerializeToString(), "slimq.")
    assert found == {"slimq.a": "1"}
    del parsed.metadata_props[1]
    assert onnx.load_from_string(rest) == parsed


@pytest.mark.parametrize("content", [b"\xff", b"\x72\x05\x0a\x03ab", b"\x72\x04\x0a\x02\xff\xff"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"ends in the middle|utf-8"):
        split_properties(content, "slimq.")
