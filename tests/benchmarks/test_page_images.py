from __future__ import annotations

import struct

from page_images import IMAGES, MAX_BYTES, PICTURES
from places import ROOT


def test_the_images_of_the_page_are_there_and_small() -> None:
    text = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    for name, picture in PICTURES.items():
        assert f"images/{name}" in text
        content = (IMAGES / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) <= MAX_BYTES
        size = struct.unpack(">II", content[16:24])
        assert size == (picture.get("width", 1200), picture["height"])
