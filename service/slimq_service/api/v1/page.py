"""The overview page: the policies served and the results of each variant, as HTML or JSON."""

from __future__ import annotations

import json
from html import escape

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, JSONResponse

from slimq import __version__
from slimq.core.errors import SlimqError
from slimq.core.manifest import PolicyManifest, is_stale
from slimq.core.report import EvaluationReport
from slimq_service.api.v1.policies import environment_of
from slimq_service.api.v1.robustness import RobustnessReport, describe
from slimq_service.http.forwarded import Proxies
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.snapshot import PolicyScan

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1a1a1a;background:#fff}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:right;
border-bottom:1px solid #ccc}th:first-child,td:first-child{text-align:left}
pre{background:#f3f3f3;padding:.7rem;overflow-x:auto}.broken{color:#a40000}
.scroll{overflow-x:auto}
@media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#161616}pre{background:#262626}
th,td{border-color:#444}a{color:#8ab4f8}.broken{color:#ff8a80}}
"""


NOT_PROVEN = "not proven in play: no environment, agreement on recorded states only"


class VariantRow(BaseModel):
    """Size and measured results of a variant; null if not measured."""

    name: str
    default: bool = Field(description="serves requests that name no variant")
    precision: str | None = None
    bytes: int | None = Field(default=None, description="on disk")
    bytes_ratio: float | None = Field(
        default=None, description="the baseline's size over this variant's"
    )
    mean_return: float | None = None
    interval: tuple[float, float] | None = Field(
        default=None, description="95 % confidence interval of the mean return"
    )
    agreement: float | None = Field(
        default=None, description="share of states with the same action as the current baseline"
    )
    latency_p50_us: float | None = Field(default=None, description="for one observation")
    robust: bool | None = Field(
        default=None,
        description="whether it is non-inferior undisturbed and under all standard conditions",
    )
    fails_under: list[str] = Field(
        default_factory=list,
        description="where it fails to be non-inferior: `undisturbed`, or standard conditions",
    )
    stale: bool = Field(default=False, description="derived from an earlier network of the policy")
    problem: str | None = None


class PolicyTable(BaseModel):
    """A policy with its variants and a curl command to try."""

    name: str
    environment: str | None
    proven_in_play: bool | None = Field(
        description="false without an environment to measure returns in"
    )
    problem: str | None = None
    try_it: str | None = None
    variants: list[VariantRow]


class Overview(BaseModel):
    """The content of the page."""

    version: str
    policies: list[PolicyTable]


async def make_overview(catalogue: Catalogue, base_url: str) -> Overview:
    """Collects the content of the page from the latest scan and the reports."""
    policies = []
    for name, scanned in catalogue.scan.policies.items():
        manifest = scanned.manifest
        rows = [await _row(catalogue, scanned, name, variant) for variant in scanned.variants]
        policies.append(
            PolicyTable(
                name=name,
                environment=environment_of(manifest),
                proven_in_play=manifest.proven_in_play if manifest else None,
                problem=str(scanned.error) if scanned.error else None,
                try_it=example(manifest, base_url) if manifest else None,
                variants=rows,
            )
        )
    return Overview(version=__version__, policies=policies)


def example(policy: PolicyManifest, base_url: str) -> str:
    """A curl command for an all-zero observation: in JSON, or as raw bytes if it is large."""
    url = f"{base_url}/v1/policies/{policy.name}/act"
    spec = policy.observation
    if spec.size > 64:
        line = f"head -c {spec.item_bytes} /dev/zero | curl -s '{url}'"
        return f"{line} -H 'content-type: application/octet-stream' --data-binary @-"
    body = json.dumps({"observations": spec.zeros().tolist()})
    return f"curl -s '{url}' -H 'content-type: application/json' -d '{body}'"


def render_html(overview: Overview, prefix: str) -> str:
    """Renders the page; all text is escaped.

    Args:
        overview: the content.
        prefix: path prefix of links; without one they are relative, in case of an unknown prefix.
    """
    docs, policies, ready, metrics = (
        escape(f"{prefix}/{path}" if prefix else path)
        for path in ("docs", "v1/policies", "readyz", "metrics")
    )
    sections = "".join(_section(policy) for policy in overview.policies)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>slimq</title><style>{STYLE}</style></head><body><h1>slimq</h1>"
        "<p>Policies served here, with the size, return and latency of each variant. "
        f'<a href="{docs}">API</a> · <a href="{policies}">manifests</a> · '
        f'<a href="{ready}">readiness</a> · <a href="{metrics}">metrics</a></p>'
        f"{sections or '<p>No policy is published yet.</p>'}"
        f"<p>version {escape(overview.version)}</p></body></html>"
    )


def prefers_json(accept: str) -> bool:
    """Whether an Accept header ranks JSON above HTML."""
    return _quality(accept, "application/json") > _quality(accept, "text/html")


def make_page_router(catalogue: Catalogue, proxies: Proxies) -> APIRouter:
    """The route of the overview page."""
    router = APIRouter(tags=["page"])

    @router.get(
        "/",
        summary="Overview of policies and variants",
        response_class=HTMLResponse,
        responses={
            200: {"model": Overview, "description": "HTML, or JSON if the Accept header prefers it"}
        },
    )
    async def get_page(request: Request) -> Response:
        await catalogue.refresh()
        url = proxies.url(request.scope)
        overview = await make_overview(catalogue, str(url))
        headers = {"vary": "accept"}
        if prefers_json(request.headers.get("accept", "*/*")):
            return JSONResponse(overview.model_dump(mode="json"), headers=headers)
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
        headers["content-security-policy"] = policy
        return HTMLResponse(render_html(overview, url.prefix), headers=headers)

    return router


async def _row(
    catalogue: Catalogue, policy_scan: PolicyScan, name: str, variant: str
) -> VariantRow:
    policy, scanned = policy_scan.manifest, policy_scan.variants[variant]
    row = VariantRow(
        name=variant,
        default=policy is not None and policy.default_variant == variant,
        problem=str(scanned.error) if scanned.error else None,
    )
    manifest = scanned.manifest
    if manifest is None:
        return row
    size = manifest.model.bytes
    update: dict[str, object] = {"precision": manifest.precision, "bytes": size}
    update["stale"] = policy is not None and is_stale(manifest, policy)
    found = policy_scan.variants.get(policy.baseline_variant) if policy else None
    baseline = found.manifest.model if found is not None and found.manifest is not None else None
    if baseline is not None and size:
        update["bytes_ratio"] = baseline.bytes / size
    try:
        report = await catalogue.report(name, variant)
    except SlimqError as error:
        update["problem"] = row.problem or str(error)
    else:
        if report is not None and report.model_sha256 == manifest.model.sha256:
            update |= _measured(report, baseline.sha256 if baseline is not None else None)
            update |= _judged(describe(catalogue.evidence.find(name, variant)))
    return row.model_copy(update=update)


def _measured(report: EvaluationReport, baseline_sha256: str | None) -> dict[str, object]:
    latency = None
    fidelity = report.fidelity if report.baseline_sha256 == baseline_sha256 else None
    if report.latency is not None:
        latency = report.latency.find("interleaved", 1) or report.latency.find("alone", 1)
    interval = report.interval
    return {
        "mean_return": report.mean,
        "interval": None if interval is None else (interval.low, interval.high),
        "agreement": fidelity.agreement if fidelity else None,
        "latency_p50_us": latency.p50_us if latency else None,
    }


def _judged(found: RobustnessReport | None) -> dict[str, object]:
    if found is None:
        return {}
    return {"robust": found.robust, "fails_under": found.fails_under}


def _section(policy: PolicyTable) -> str:
    rows = "".join(_html_row(row) for row in policy.variants)
    headings = ("variant", "precision", "bytes", "smaller", "return", "95 % interval")
    more = ("fails under", "agreement", "p50 latency")
    head = "".join(f"<th>{text}</th>" for text in (*headings, *more))
    problem = f'<p class="broken">{escape(policy.problem)}</p>' if policy.problem else ""
    line = f"<pre>{escape(policy.try_it)}</pre>" if policy.try_it else ""
    about = NOT_PROVEN if policy.proven_in_play is False else policy.environment or ""
    title = f"{escape(policy.name)} <small>{escape(about)}</small>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<h2>{title}</h2>{problem}<div class="scroll">{table}</div>{line}'


def _html_row(row: VariantRow) -> str:
    ends = row.interval
    cells = (
        row.precision or "–",
        "–" if row.bytes is None else f"{row.bytes:,}",
        "–" if row.bytes_ratio is None else f"{row.bytes_ratio:.2f}×",
        "–" if row.mean_return is None else f"{row.mean_return:.2f}",
        "–" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}",
        ", ".join(row.fails_under) or ("nothing" if row.robust else "–"),
        "–" if row.agreement is None else f"{row.agreement:.2%}",
        "–" if row.latency_p50_us is None else f"{row.latency_p50_us:,.0f} µs",
    )
    name = escape(row.name) + (" (default)" if row.default else "")
    if row.stale:
        name += ' <span class="broken">derived from an earlier network</span>'
    if row.problem:
        name += f' <span class="broken">{escape(row.problem)}</span>'
    return f"<tr><td>{name}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _quality(accept: str, media_type: str) -> float:
    kind = media_type.partition("/")[0]
    best = {"precision": -1, "quality": 0.0}
    for part in accept.lower().split(","):
        name, _, parameters = part.partition(";")
        precision = {media_type: 2, f"{kind}/*": 1, "*/*": 0}.get(name.strip(), -1)
        if precision > best["precision"]:
            best = {"precision": precision, "quality": _q(parameters)}
    return best["quality"]


def _q(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
