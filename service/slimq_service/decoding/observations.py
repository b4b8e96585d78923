"""Parsing and validation of request bodies: observations as JSON, raw bytes or npy.

A body is decoded in two steps, because JSON may name the variant, and the layout of an observation
comes from that variant's policy: `parse` reads the envelope, `Envelope.observations` the numbers.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.errors import (
    InvalidInputError,
    SlimqError,
    first_line,
    suggestion,
)
from slimq.core.observation import Observations, ObservationSpec
from slimq_service.decoding.batches_in_json import read_batch
from slimq_service.decoding.frames_in_json import PLACEHOLDER, read_frames
from slimq_service.decoding.nested_lists import (
    check_count,
    check_lists,
    is_typed_array,
    kind_of,
    load_json,
)
from slimq_service.errors import MalformedError

JSON = "application/json"
RAW = "application/octet-stream"
NPY = "application/x-npy"
MEDIA_TYPES = (JSON, RAW, NPY)
FIELD = "observations"
KEYS = (FIELD, "variant")
MAX_NAME_LENGTH = 64
"""Characters of a variant's name, as in the repository."""


@dataclass(slots=True)
class Envelope:
    """A parsed body, not yet checked against a policy.

    Attributes:
        media_type: one of `MEDIA_TYPES`.
        content: raw bytes, an array, or the JSON value that was not read as an array.
        variant: the variant that the body names.
    """

    media_type: str
    content: Any
    variant: str | None = None

    def observations(self, spec: ObservationSpec, max_batch: int) -> Observations:
        """The observations `(batch, *shape)`.

        Raises:
            ObservationError: the body does not match the spec.
            LimitError: there are more than `max_batch` observations.
        """
        if self.media_type == RAW:
            count = len(self.content) // spec.item_bytes
            check_count(count, max_batch, FIELD)
            return spec.from_bytes(self.content)
        if type(self.content) is np.ndarray:
            array: npt.NDArray[Any] = self.content
            if array.ndim == len(spec.shape) + 1:
                check_count(array.shape[0], max_batch, FIELD)
            return spec.check(array, "body" if self.media_type == NPY else FIELD)
        return read_batch(self.content, spec, max_batch, FIELD)


def parse(media_type: str, body: bytes, spec: ObservationSpec, max_batch: int) -> Envelope:
    """Reads the envelope of a body.

    Args:
        media_type: one of `MEDIA_TYPES`.
        body: the complete body.
        spec: the layout of one observation, which bounds the number of lists in JSON.
        max_batch: maximum number of observations.

    Raises:
        MalformedError: the body does not match its media type.
        LimitError: the JSON has far more lists than `max_batch` observations.
        InvalidInputError: a JSON key is missing, unknown or of the wrong type.
    """
    if media_type == RAW:
        return Envelope(media_type, body)
    if media_type == NPY:
        return Envelope(media_type, read_npy(body))
    check_lists(body, spec, max_batch, FIELD)
    frames = spec.dtype == "uint8"
    document = _read_document(body, spec) if frames else read_object(body, KEYS, "body")
    if FIELD not in document:
        raise InvalidInputError(FIELD, "a list of observations", "nothing")
    variant = read_variant(document) if len(document) > 1 else None
    return Envelope(media_type, document[FIELD], variant)


def _read_document(body: bytes, spec: ObservationSpec) -> dict[str, Any]:
    """Parses a JSON body whose frames become an array if `read_frames` can parse them.

    Raises:
        MalformedError: the body is not JSON.
        ObservationError: the body contains NaN or an infinity.
        InvalidInputError: the body is not an object, or has an unknown key.
    """
    frames = read_frames(body, spec)
    if frames is not None:
        with contextlib.suppress(SlimqError):  # the full parse below reports the error
            document = read_object(frames[1], KEYS, "body")
            content = document.get(FIELD)
            if type(content) is int and content == PLACEHOLDER:
                return {**document, FIELD: frames[0]}
    return read_object(body, KEYS, "body")


def read_object(body: bytes, keys: Sequence[str], field: str) -> dict[str, Any]:
    """Parses a JSON object and rejects unknown keys.

    Args:
        body: UTF-8.
        keys: the known keys, the most important first.
        field: the name of the object in errors.

    Raises:
        MalformedError: the body is not JSON.
        ObservationError: the body contains NaN or an infinity.
        InvalidInputError: the body is not an object, or has an unknown key.
    """
    document = load_json(body, keys, field)
    if not isinstance(document, dict):
        raise InvalidInputError(field, f"a JSON object with {keys[0]}", kind_of(document))
    for key in document:
        if key not in keys:
            if is_typed_array(document):
                raise InvalidInputError(field, f"an object with {keys[0]}", kind_of(document))
            expected = f"only the keys {', '.join(keys[:-1])} and {keys[-1]}"
            raise InvalidInputError(field, expected, repr(key), suggestion(key, keys))
    return document


def read_variant(document: dict[str, Any]) -> str | None:
    """The variant that an object names, None if it names none.

    Raises:
        InvalidInputError: the name is not a string, or too long.
    """
    variant = document.get("variant")
    if variant is None:
        return None
    if not isinstance(variant, str):
        raise InvalidInputError("variant", "the name of a variant", kind_of(variant))
    if len(variant) > MAX_NAME_LENGTH:
        expected = f"a name of at most {MAX_NAME_LENGTH} characters"
        raise InvalidInputError("variant", expected, f"{len(variant)} characters")
    return variant


def read_npy(body: bytes) -> npt.NDArray[Any]:
    """Reads an npy file (format 1.0 or 2.0) without a copy and without unpickling.

    The header is checked against the length of the body before anything is allocated.

    Raises:
        MalformedError: the body is not npy, holds no numbers, or does not match its header.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](stream, max_header_size=4096)
    except Exception as error:  # the header is a Python literal; parsing it can raise anything
        expected = "an npy file (format 1.0 or 2.0)"
        raise MalformedError("body", expected, first_line(error)) from None
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise MalformedError("body", "an npy file of numbers", f"dtype {dtype}")
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= len(body) for n in shape):
        expected = f"an npy file with at most 16 dimensions, each at most {len(body)}"
        raise MalformedError("body", expected, f"shape ({', '.join(map(_length, shape))})")
    needed, present = math.prod(shape) * dtype.itemsize, len(body) - stream.tell()
    if needed != present:
        expected = f"{needed} bytes after the npy header (dtype {dtype}, shape {shape})"
        raise MalformedError("body", expected, f"{present} bytes")
    try:
        flat = np.frombuffer(body, dtype=dtype, offset=stream.tell())
        native = flat.astype(dtype.newbyteorder("="), copy=False)
        return native.reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # an empty array may have arbitrary other dimensions
        raise MalformedError("body", "an npy file with a valid shape", str(error)) from None


def _length(length: int) -> str:
    return str(length) if abs(length) < 2**63 else "a number over 2**63"
