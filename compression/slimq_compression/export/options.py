"""Options of an export; each target reads those that it uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from slimq.core.errors import InvalidInputError

DEFAULT_FLASH, DEFAULT_RAM = 2_000_000, 1_000_000
"""The memory of the largest common microcontrollers."""
DEFAULT_CPU, DEFAULT_OPTIMIZATION = "cortex-m4", "size"
MAX_VECTORS = 100_000
PREFIX = r"[a-z][a-z0-9_]{0,31}"
KEYWORDS = frozenset({"int", "float", "char", "short", "long", "double", "void", "static", "const"})
TAKEN = frozenset({"selftest", "math", "stdint", "stdio", "stdlib", "string"})
"""A file of the export itself, and headers of C that a compiler could take the policy's for."""


@dataclass(frozen=True)
class Options:
    """The options of an export.

    Attributes:
        max_flash: maximum bytes of code and constants, for devices.
        max_ram: maximum bytes of state, stack, one frame and library variables.
        cpu: core for which sizes are measured.
        optimize: what the compiler optimizes for, `size` or `speed`.
        vectors: number of golden vectors; None for as many as fit a file of moderate size.
        prefix: prefix of the C files and identifiers.
        runtime: folder or tarball of ONNX Runtime Web; None for the cache or npm.
    """

    max_flash: int = DEFAULT_FLASH
    max_ram: int = DEFAULT_RAM
    cpu: str = DEFAULT_CPU
    optimize: str = DEFAULT_OPTIMIZATION
    vectors: int | None = None
    prefix: str = "policy"
    runtime: Path | None = None

    def check(self) -> None:
        """Checks values that are not checked where they are used.

        Raises:
            InvalidInputError: one is out of range.
        """
        if self.vectors is not None and not 1 <= self.vectors <= MAX_VECTORS:
            expected = f"a number from 1 to {MAX_VECTORS:,}"
            raise InvalidInputError("vectors", expected, str(self.vectors))
        if not re.fullmatch(PREFIX, self.prefix) or self.prefix in KEYWORDS:
            expected = "a lower-case identifier of C of at most 32 characters"
            raise InvalidInputError("prefix", expected, repr(self.prefix))
        if self.prefix in TAKEN:
            expected = "a name other than those of C's headers and the export's own files"
            raise InvalidInputError("prefix", expected, repr(self.prefix))
