"""Exports a variant as C: sources, golden vectors, a self-test, a Makefile."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from slimq.core.calibration import CalibrationSet
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QValues
from slimq.core.repository import Repository
from slimq_compression.export.c import compilers, golden
from slimq_compression.export.c.host import HostPolicy
from slimq_compression.export.c.limits import compiled, estimate, refuse_larger, refuse_operator
from slimq_compression.export.c.notes import describe_export
from slimq_compression.export.c.source import Sources, write_sources
from slimq_compression.export.lowering.lower import Network, lower
from slimq_compression.export.lowering.state import UnsupportedError
from slimq_compression.export.options import Options
from slimq_compression.export.report import Agreement, CReport, heading
from slimq_compression.export.subject import Subject

GOLDEN = "golden.bin"


def export_c(repository: Repository, subject: Subject, folder: Path, options: Options) -> CReport:
    """Writes the files of an export to C into an empty folder.

    Raises:
        InvalidInputError: the target lacks an operator of the variant, or the core is unknown.
        CheckFailedError: the variant exceeds a limit, or the C does not compile.
    """
    compilers.cpu_flags(options.cpu)
    compilers.optimization(options.optimize)
    try:
        network = lower(subject.model(), subject.policy.observation, len(subject.policy.actions))
    except UnsupportedError as error:
        raise refuse_operator(repository, subject, error) from None
    least = estimate(network)
    if not least.may_fit(options):
        raise refuse_larger(repository, subject, least, options)
    sources = write_sources(network, options.prefix, describe_export(subject, network))
    write_files(folder, sources, network, options)
    with tempfile.TemporaryDirectory() as work:
        size = compiled(network, sources, options)
        if not size.fits(options):
            raise refuse_larger(repository, subject, size, options)
        states = subject.calibration
        exact = _run(network, sources, folder, options, states, Path(work))
    reference = None if states is None else _reference(subject, states)
    vectors = _write_golden(folder, states, reference, exact, options)
    return CReport(
        **heading("c", subject) | {"macs": network.macs},
        flash=size.as_flash(options.cpu),
        ram=size.as_ram(),
        vectors=vectors,
        agreement=None if exact is None or reference is None else compare(exact, reference),
    )


def write_files(folder: Path, sources: Sources, network: Network, options: Options) -> None:
    """Writes the sources, the self-test and the Makefile."""
    prefix = options.prefix
    sources.write(folder, prefix)
    words = {
        "PREFIX": prefix,
        "UPPER": prefix.upper(),
        "ELEMENT": network.observation.element,
        "CPU": options.cpu,
        "OPTIMIZATION": compilers.optimization(options.optimize),
    }
    for name in ("selftest.c", "Makefile"):
        (folder / name).write_text(fill_template(name, words), encoding="utf-8")


def fill_template(name: str, words: dict[str, str]) -> str:
    """A template with its placeholders `@WORD@` replaced."""
    text = resources.files("slimq_compression.export.c.templates").joinpath(name).read_text("utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _run(
    network: Network,
    sources: Sources,
    folder: Path,
    options: Options,
    states: CalibrationSet | None,
    work: Path,
) -> QValues | None:
    """The Q-values of the compiled C; None without a compiler or states."""
    library = work / "policy.so"
    built = compilers.build_library(folder, options.prefix, library)
    if not built or states is None:
        return None
    host = HostPolicy(library, options.prefix, sources.state_bytes, network.actions)
    return host.on_states(states)


def _reference(subject: Subject, states: CalibrationSet) -> QValues:
    """ONNX Runtime's Q-values, `(states, actions)`, in batches of one as on a device."""
    layout = subject.policy.observation
    policy = OnnxPolicy(subject.content, layout, len(subject.policy.actions), subject.name)
    observations = states.observations(layout)
    rows = [policy(observations[row : row + 1]) for row in range(len(observations))]
    return np.concatenate(rows)


def _write_golden(
    folder: Path,
    states: CalibrationSet | None,
    reference: QValues | None,
    exact: QValues | None,
    options: Options,
) -> int:
    """Writes golden vectors; returns their number."""
    if states is None or reference is None:
        return 0
    count = golden.default_count(states) if options.vectors is None else options.vectors
    places = golden.places(len(states), count)
    chosen = golden.choose(states, places)
    own = None if exact is None else exact[places]
    content = golden.golden_bytes(chosen, reference[places], own)
    (folder / GOLDEN).write_bytes(content)
    return len(places)


def compare(found: QValues, reference: QValues) -> Agreement:
    """Compares the compiled C's Q-values with ONNX Runtime's, both `(states, actions)`."""
    difference = float(np.abs(found.astype(np.float64) - reference).max())
    q_range = float(np.ptp(reference))
    ordered = np.sort(reference.astype(np.float64), axis=1)
    gaps = (
        ordered[:, -1] - ordered[:, -2] if reference.shape[1] > 1 else np.full(len(found), np.inf)
    )
    same = found.argmax(axis=1) == reference.argmax(axis=1)
    clear = gaps > 2 * difference
    return Agreement(
        states=len(found),
        same_actions=float(same.mean()),
        ties=int((~clear).sum()),
        same_actions_without_ties=float(same[clear].mean()) if clear.any() else 1.0,
        largest_difference=difference,
        q_range=q_range,
        relative=difference / q_range if q_range else float(difference > 0),
    )
