"""What Chromium makes of the service: `docs URL` or `other URL PAGE`; prints JSON.

No name is resolved, so that a request to another host fails, and is told of all the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from playwright.sync_api import Page, sync_playwright

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)
OTHER = """async (url) => {
    const attempt = async (make) => { try { return await make(); } catch (error) { return null; } };
    const post = (path, options) => attempt(async () => {
        const answer = await fetch(url + path, {method: "POST", ...options});
        return {status: answer.status, type: answer.type, id: answer.headers.get("x-request-id"),
                body: answer.type === "opaque" ? null : await answer.json()};
    });
    const headers = {"content-type": "application/json"};
    const act = {body: '{"observations": [[0, 0, 0, 0]]}', headers};
    return {
        unload: await post("/v2/repository/models/tiny/unload", {mode: "no-cors", body: "{}"}),
        act: await post("/v1/policies/tiny/act", act),
        wrong: await post("/v1/policies/none/act", act),
        stream: await new Promise((resolve) => {
            const stream = new WebSocket(url.replace("http", "ws") + "/v1/policies/tiny/stream");
            stream.onopen = () => stream.send(new Uint8Array(16));
            stream.onmessage = (message) => resolve(JSON.parse(message.data));
            stream.onerror = () => resolve(null);
        }),
    };
}"""


def visit_docs(page: Page, url: str) -> dict[str, Any]:
    """Opens the page, unfolds an operation and sends its example."""
    page.goto(url + "/docs")
    page.wait_for_selector(".opblock", timeout=20_000)
    operations = page.locator(".opblock").count()
    operation = page.locator("#operations-act-act_policy")
    operation.locator(".opblock-summary-control").click()
    operation.locator("button.try-out__btn").click()
    operation.locator("input[placeholder=policy]").fill("tiny")
    operation.locator("button.execute").click()
    response = operation.locator(".live-responses-table tbody .response-col_status")
    response.wait_for(timeout=20_000)
    return {
        "operations": operations,
        "status": response.inner_text().split()[0],
        "asked": operation.locator(".request-url pre").inner_text().strip(),
        "font": page.evaluate("getComputedStyle(document.querySelector('.opblock-tag')).fontSize"),
    }


def visit_other(page: Page, url: str, other: str) -> dict[str, Any]:
    """Has a page of another site unload, act, and open a stream."""
    page.goto(other + "/healthz")
    return dict(page.evaluate(OTHER, url))


def main(kind: str, *urls: str) -> None:
    """Prints what was found, every URL that was asked for, and what the console says."""
    requests: list[str] = []
    console: list[str] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            folder, executable_path="/usr/bin/chromium", args=list(FLAGS)
        )
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"error: {error}"))
        found = visit_docs(page, *urls) if kind == "docs" else visit_other(page, *urls)
        browser.close()
    sys.stdout.write(json.dumps({**found, "requests": requests, "console": console}))


if __name__ == "__main__":
    main(*sys.argv[1:])
