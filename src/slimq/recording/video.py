"""Encodes pictures as MP4 (H.264) or GIF, in memory: a file exists only once it is complete."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from slimq.core.errors import InvalidInputError

MAX_FPS, MAX_GIF_FPS = 120.0, 50.0
"""GIF counts in hundredths of a second, and viewers slow down what takes one of them."""
_QUALITY = "23"
"""H.264's constant rate factor; its encoder's default, at which letters stay sharp."""
_GIF_COLOURS = 128
_SAMPLED = 32
"""Pictures at the beginning of which the colours of a GIF are chosen."""

Encode = Callable[[Iterable[Image.Image], float], bytes]


def find_encoder(output: Path) -> Encode:
    """The encoder for the name of a file.

    Raises:
        InvalidInputError: its suffix is unknown.
    """
    encoders: dict[str, Encode] = {".mp4": encode_mp4, ".gif": encode_gif}
    try:
        return encoders[output.suffix.lower()]
    except KeyError:
        expected = f"a name that ends in {' or '.join(encoders)}"
        raise InvalidInputError("--output", expected, repr(output.name)) from None


def choose_fps(output: Path, wanted: float | None, own: float) -> float:
    """Pictures per second, as wanted or as the environment has it.

    Raises:
        InvalidInputError: the wanted number is out of range.
    """
    most = MAX_GIF_FPS if output.suffix.lower() == ".gif" else MAX_FPS
    if wanted is None:
        return min(own, most)
    if not 0.5 <= wanted <= most:
        expected = f"from 0.5 to {most:g} for {output.suffix}"
        raise InvalidInputError("--fps", expected, f"{wanted:g}")
    return wanted


def encode_mp4(pictures: Iterable[Image.Image], fps: float) -> bytes:
    """Encodes pictures of equal, even size as H.264, which every browser plays."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(pictures):
            if index == 0:
                stream.width, stream.height = picture.size
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24"))
            )
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_gif(pictures: Iterable[Image.Image], fps: float) -> bytes:
    """Encodes pictures as GIF, which plays over and over, with one palette for all."""
    rest = iter(pictures)
    sampled = list(itertools.islice(rest, _SAMPLED))
    palette = _choose_colours(sampled)

    def reduced() -> Iterator[Image.Image]:
        for picture in itertools.chain(sampled, rest):
            yield picture.quantize(palette=palette, dither=Image.Dither.NONE)

    frames, buffer = reduced(), io.BytesIO()
    hundredths = max(2, round(100 / fps))
    next(frames).save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames,
        duration=10 * hundredths,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def _choose_colours(pictures: list[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    sampled = pictures[:: max(1, len(pictures) // 4)]
    together = Image.new("RGB", (width, height * len(sampled)))
    for index, picture in enumerate(sampled):
        together.paste(picture, (0, height * index))
    return together.quantize(_GIF_COLOURS, method=Image.Quantize.MEDIANCUT)
