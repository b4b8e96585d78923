"""Size limits of an export, and errors that name the variants that fit instead."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from slimq.core.errors import CheckFailedError, InvalidInputError, RepositoryError
from slimq.core.repository import Repository
from slimq_compression.export.c.compilers import DeviceSize, measure
from slimq_compression.export.c.memory import plan_memory
from slimq_compression.export.c.observe import frame_size
from slimq_compression.export.c.source import Sources, state_bytes, write_sources
from slimq_compression.export.layers.kinds import Weighted
from slimq_compression.export.layers.tensors import BYTES
from slimq_compression.export.lowering.lower import Network, lower
from slimq_compression.export.lowering.state import UnsupportedError
from slimq_compression.export.options import Options
from slimq_compression.export.report import Flash, Ram
from slimq_compression.export.subject import Subject

ROW_BYTES = 8
"""Upper estimate of the constants of a row of weights besides these: its bias and its scale."""
CODE_BYTES, LAYER_BYTES = 8_000, 600
"""Upper estimates of code bytes: interface with floating-point functions, and each layer."""
STACK_BYTES, LIBRARY_BYTES = 512, 128
"""Upper estimates of the bytes of stack and of library variables."""


@dataclass(frozen=True)
class Size:
    """The memory that an export needs on a device.

    Attributes:
        constants: bytes of arrays.
        flash: bytes of constants and code.
        state: bytes of the struct with frames and all intermediate results.
        frame: bytes of a frame.
        weights: bytes of weights and other arrays, which no compiler can save.
        measured: sizes measured with a compiler; None for an estimate.
    """

    constants: int
    flash: int
    state: int
    frame: int
    weights: int
    measured: DeviceSize | None = None

    @property
    def stack(self) -> int:
        """Bytes of stack."""
        return STACK_BYTES if self.measured is None else self.measured.stack

    @property
    def libraries(self) -> int:
        """Bytes of the variables of library functions."""
        return LIBRARY_BYTES if self.measured is None else self.measured.ram

    @property
    def ram(self) -> int:
        """Bytes of state, stack, one frame and library variables."""
        return self.state + self.frame + self.stack + self.libraries

    def may_fit(self, options: Options) -> bool:
        """Whether what needs no estimate is within the limits: weights, state and one frame."""
        return self.weights <= options.max_flash and self.state + self.frame <= options.max_ram

    def fits(self, options: Options) -> bool:
        """Whether flash and RAM are within the limits."""
        return self.flash <= options.max_flash and self.ram <= options.max_ram

    def corrected(self, sources: Sources, measured: DeviceSize | None) -> Size:
        """A copy with the exact sizes of written sources, and the compiler's if there is one."""
        code = self.flash - self.constants
        flash = sources.constant_bytes + code if measured is None else measured.flash
        constants, state = sources.constant_bytes, sources.state_bytes
        return Size(constants, flash, state, self.frame, self.weights, measured)

    def as_flash(self, cpu: str) -> Flash:
        """The entry `flash` of the report."""
        if self.measured is None:
            return Flash(self.flash, self.constants, cpu, measured=False)
        compiler, flags = self.measured.compiler, self.measured.flags
        return Flash(self.flash, self.constants, cpu, measured=True, compiler=compiler, flags=flags)

    def as_ram(self) -> Ram:
        """The entry `ram` of the report."""
        return Ram(self.ram, self.state, self.frame, self.stack, self.libraries)


def estimate(network: Network) -> Size:
    """Upper estimates of a network's sizes, made without writing its sources."""
    weights = rows = 0
    for layer in network.layers:
        for view in layer.inputs:
            weights += view.buffer.bytes if view.buffer.place == "constant" else 0
        if isinstance(layer, Weighted):
            weights += layer.rows_of.bytes
            rows += layer.rows_of.rows
    constants = weights + ROW_BYTES * rows
    flash = constants + CODE_BYTES + LAYER_BYTES * len(network.layers)
    frame = frame_size(network) * BYTES[network.observation.element]
    state = state_bytes(network, plan_memory(network.layers))
    return Size(constants, flash, state, frame, weights)


def compiled(network: Network, sources: Sources, options: Options) -> Size:
    """The sizes of a network as the compiler for the core makes it, or estimated without one.

    Raises:
        CheckFailedError: it does not compile.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sources.write(work, options.prefix)
        measured = measure(work, options.prefix, options.cpu, options.optimize, work)
    return estimate(network).corrected(sources, measured)


def refuse_operator(
    repository: Repository, subject: Subject, problem: UnsupportedError
) -> InvalidInputError:
    """The error for a variant with an operator that the target lacks."""
    names = [name for name, _ in lowered_variants(repository, subject)]
    reason = f" {problem.reason}" if problem.reason else ""
    return InvalidInputError(
        "variant",
        f"one without the operator {problem.operator}{reason}, which the target c lacks",
        subject.name,
        f"; these do without it: {', '.join(names) or 'none'}",
    )


def refuse_larger(
    repository: Repository, subject: Subject, size: Size, options: Options
) -> CheckFailedError:
    """The error for a variant that exceeds a limit, with the variants that fit."""
    fitting = [
        f"{name} ({other.flash:,} and {other.ram:,}{'' if other.measured else ' at most'})"
        for name, other in _fitting(repository, subject, options)
    ]
    about = "" if size.measured else "about "
    return CheckFailedError(
        f"{subject.name} needs {about}{size.flash:,} bytes of flash and {size.ram:,} of RAM; "
        f"--max-flash is {options.max_flash:,} and --max-ram is {options.max_ram:,}. "
        f"Variants that fit: {', '.join(fitting) or 'none'}"
    )


def _fitting(repository: Repository, subject: Subject, options: Options) -> list[tuple[str, Size]]:
    """Other variants within the limits, smallest flash first; compiled where estimates exceed."""
    found = []
    for name, network in lowered_variants(repository, subject):
        size = estimate(network)
        if size.may_fit(options) and not size.fits(options):
            size = compiled(network, write_sources(network, options.prefix, ""), options)
        if size.fits(options):
            found.append((name, size))
    return sorted(found, key=lambda entry: entry[1].flash)


def lowered_variants(repository: Repository, subject: Subject) -> Iterator[tuple[str, Network]]:
    """The policy's other variants that can be lowered."""
    policy = subject.policy
    for name in repository.variants(policy.name):
        if name == subject.variant.name:
            continue
        try:
            _, content = repository.read_model(policy.name, name)
            model = onnx.load_from_string(content)
            yield name, lower(model, policy.observation, len(policy.actions))
        except (UnsupportedError, RepositoryError):
            continue
