"""`slimq export`: a variant as files for its target."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json
from slimq.cli.units import parse_bytes

if TYPE_CHECKING:
    from slimq_compression.export.report import CReport
    from slimq_compression.export.web.report import WebReport

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def export(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    variant: Annotated[str, typer.Option("--variant", help="Name of one of its variants.")],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="Where it will run. c: a C99 header and source for devices. onnx: one file that "
            "describes itself, for any ONNX Runtime. web: a page on which it plays, in a folder "
            "for any file server.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", help="Folder to create; it is written completely or not at all."),
    ],
    policies: PoliciesOption = DEFAULT_POLICIES,
    max_flash: Annotated[
        str,
        typer.Option(
            "--max-flash",
            help="Limit on code and constants of target c, such as 64kB; a larger variant is "
            "refused, and those that fit are listed.",
        ),
    ] = "2MB",
    max_ram: Annotated[
        str,
        typer.Option(
            "--max-ram", help="Limit on state, stack and one frame of target c, such as 64kB."
        ),
    ] = "1MB",
    cpu: Annotated[
        str,
        typer.Option(
            "--cpu",
            help="Core for which arm-none-eabi-gcc measures flash and stack: cortex-m0, "
            "cortex-m0plus, cortex-m3, cortex-m4 or cortex-m7. Without this compiler both are "
            "estimated.",
        ),
    ] = "cortex-m4",
    optimize: Annotated[
        str, typer.Option("--optimize", help="What to optimize for: size or speed.")
    ] = "size",
    vectors: Annotated[
        int | None,
        typer.Option(
            "--vectors",
            help="Golden vectors of the self-test; by default as many as 1 MB holds.",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Prefix of the names of C functions and files.")
    ] = "policy",
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime",
            help="Folder or tarball of npm's onnxruntime-web for target web; by default npm "
            "fetches it once, into the cache.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in this folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Export a variant to C, to a web page or to one ONNX file.

    With target c, the folder gets sources that need no memory allocation and no library but C's
    own, golden vectors, a self-test with a Makefile, and report.json: flash, RAM, stack,
    multiply-accumulates, and how well the compiled C agrees with ONNX Runtime on the policy's
    recorded states. With target onnx, it gets an ONNX file with all that is known about the variant
    in its metadata: layout of observations, preprocessing, actions, recipe, hashes, evidence. With
    target web, it gets a page, ONNX Runtime Web, the model and a recorded episode, and works
    offline.
    """
    require("compress", "onnx", "onnxruntime")
    from slimq.core.repository import Repository
    from slimq_compression.export.onnx_file import describe_onnx
    from slimq_compression.export.options import Options
    from slimq_compression.export.targets import export_variant

    options = Options(
        max_flash=parse_bytes(max_flash, "--max-flash"),
        max_ram=parse_bytes(max_ram, "--max-ram"),
        cpu=cpu,
        optimize=optimize,
        vectors=vectors,
        prefix=prefix,
        runtime=runtime,
    )
    report = export_variant(
        Repository(policies), policy, variant, target, output, options, replace=force
    )
    if as_json:
        print_json(report)
    else:
        describers: dict[str, Callable[[Any, Path], list[str]]] = {
            "c": describe,
            "onnx": describe_onnx,
            "web": describe_web,
        }
        typer.echo("\n".join(describers[target](report, output)))


def describe(report: CReport, output: Path) -> list[str]:
    """Formats the report of an export to C."""
    flash, ram, agreement = report.flash, report.ram, report.agreement
    how = f"on {flash.cpu}" if flash.measured else "estimated, as there is no arm-none-eabi-gcc"
    lines = [
        f"{report.policy}/{report.variant} as {report.target} in {output}",
        f"  flash  {flash.bytes:>9,} bytes, {flash.constants:,} of them constants ({how})",
        f"  RAM    {ram.bytes:>9,} bytes: state {ram.state:,}, one frame {ram.frame:,}, "
        f"stack {ram.stack:,}",
        f"  work   {report.macs:>9,} multiply-accumulates per action",
    ]
    if agreement is None:
        lines.append("  not compared with ONNX Runtime: no C compiler here, or no recorded states")
    else:
        clear = f"{agreement.same_actions_without_ties:.1%} excluding {agreement.ties} ties"
        lines.append(
            f"  same action as ONNX Runtime on {agreement.same_actions:.1%} of "
            f"{agreement.states:,} states ({clear}), Q-values within {agreement.relative:.1e} of "
            "their range"
        )
    return [*lines, f"  {report.evidence}"]


def describe_web(report: WebReport, output: Path) -> list[str]:
    """Formats the report of an export to the web."""
    model, episode = report.model, report.episode
    stored = "" if model.bytes == model.variant_bytes else f", {model.variant_bytes:,} as a variant"
    part = f"{'all' if episode.complete else 'the first'} {episode.steps:,} steps"
    recorded = f"{part} of held-out seed {episode.seed}, return {episode.return_:.4g}"
    if episode.seed is None:
        recorded = f"{episode.steps:,} recorded states"
    own = "in the page" if report.page_environment else "recorded"
    lines = [
        f"{report.policy}/{report.variant} as web in {output}",
        f"  model        {model.bytes:>10,} bytes{stored}",
        f"  runtime      {report.runtime.bytes:>10,} bytes: {report.runtime.package} "
        f"{report.runtime.version}",
        f"  recording    {episode.bytes:>10,} bytes: {recorded}",
        f"  all files    {report.total_bytes:>10,} bytes; the environment is {own}",
    ]
    if model.decoded:
        lines.append(f"  weights are decoded, as the runtime lacks {', '.join(model.decoded)}")
    return [
        *lines,
        f"  {report.evidence.text}",
        f"  python -m http.server --directory {shlex.quote(str(output))}",
    ]
