from __future__ import annotations

import http.server
import inspect
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from running import COMMAND, serve
from slimq.core.client import SlimqClient

SHORT = ("--rounds", "12", "--seconds", "0.05", "--connections", "2")


@pytest.fixture
def refused(tiny_repository: Path, invoke: Any) -> Any:
    """`refused(url, …)`: what `slimq loadtest` says; it must end with 2 and print nothing."""

    def call(url: str, *arguments: str, policies: Path = tiny_repository) -> str:
        code, out, err = invoke("loadtest", url, "--policies", str(policies), *arguments)
        assert (code, out) == (2, ""), err
        return str(err)

    return call


def test_a_closed_loop_is_printed_and_written(
    served: str, slimq: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    arguments = ("--policy", "tiny", "--variants", "fp32,other", "--modes", "closed", *SHORT)
    options = ("--policies", tiny_repository, "--output", folder, "--seed", 7, "--json")
    done = slimq("loadtest", served, *arguments, *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert json.loads((folder / "loadtest.json").read_text()) == document
    assert document["ended"] == "complete"
    assert document["plan"]["seed"] == 7
    assert document["observations"] == "16 observations from the calibration set"
    with SlimqClient(served) as client:
        for name in ("fp32", "other"):
            sha256 = client.variant("tiny", name).model.sha256
            assert document["models"][name] == sha256
    labels = ["fp32", "other"]
    assert [summary["label"] for summary in document["summaries"]] == labels
    for summary in document["summaries"]:
        assert not summary["failed"]
        histogram = HdrHistogram.decode(summary["histogram"].encode())
        assert histogram.get_total_count() == summary["requests"] > 50
        assert histogram.get_value_at_percentile(50) == summary["quantiles_us"]["0.5"]
    assert len(document["samples"]) == 24
    compared = {(d["label"], d["statistic"]) for d in document["differences"]}
    assert {("other", "p50"), ("other", "throughput")} < compared
    assert all(d["verdict"] for d in document["differences"])
    assert "### Closed loop: 2 connections" in (folder / "loadtest.md").read_text()
    assert "<svg" in (folder / "loadtest.html").read_text()
    assert "100%" in done.stderr
    assert f"wrote {folder}/loadtest.json, .html and .md" in done.stderr


def test_undecodable_names_are_replaced_in_the_report(
    served: str, slimq: Any, tmp_path: Path
) -> None:
    states = tmp_path / os.fsdecode(b"st\xffates.npy")
    with states.open("wb") as file:
        np.save(file, np.zeros((3, 4), np.float32))
    folder = tmp_path / os.fsdecode(b"rep\xffort")
    arguments = ("--policy", "tiny", "--variants", "fp32", "--modes", "closed", "--rounds", 2)
    options = ("--seconds", "0.05", "--input", states, "--output", folder)
    done = slimq("loadtest", served, *arguments, *options)
    assert done.returncode == 0, done.stderr
    assert "st\ufffdates.npy" in done.stdout
    assert "rep\ufffdort/loadtest.json" in done.stderr
    document = json.loads((folder / "loadtest.json").read_text())
    assert document["samples"]
    assert document["plan"]["seed"] > 0  # drawn, of four thousand million
    assert f"; seed {document['plan']['seed']}\n" in done.stdout


def test_models_changed_or_removed_during_the_test_are_noted(
    served: str, tiny_repository: Path
) -> None:
    from slimq.loadtest.service import find_republished

    with SlimqClient(served) as client:
        same = client.variant("tiny", "fp32").model.sha256
        models = {"fp32": same, "other": "0" * 64, "gone": same}
        changed, gone = find_republished(client, "tiny", models)
    assert changed == "other was republished during the test: its figures mix both models"
    assert gone.startswith("could not check whether gone was republished: ")
    assert "gone" in gone.removeprefix("whether gone")


def test_the_defaults_of_the_command_are_those_of_the_plan() -> None:
    from slimq.cli.loadtest import loadtest, read_modes
    from slimq.cli.units import parse_duration
    from slimq.loadtest.plan import Plan

    options = {name: p.default for name, p in inspect.signature(loadtest).parameters.items()}
    options["modes"] = read_modes(options["modes"])
    options["p99_us"] = parse_duration(options["p99"], "--p99")
    apart = {"subjects", "baseline", "warm_seconds", "seed"}
    for field in fields(Plan):
        if field.name not in apart:
            assert options[field.name] == field.default, field.name


def test_the_key_is_sent_only_to_the_services_own_metrics() -> None:
    from slimq.loadtest.service import make_meter

    keys: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"process_cpu_seconds_total 1\n")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        for url in (f"http://{address}", "http://127.0.0.1:1", "http://elsewhere"):
            meter = make_meter(url, f"http://{address}/metrics", "s3cret", 5)
            assert meter.problem is None
            meter.close()
        server.shutdown()
    third = len(keys) // 3
    assert keys == ["Bearer s3cret"] * 2 * third + [None] * third


def test_a_plan_longer_than_the_time_limit_is_announced(capsys: Any) -> None:
    from slimq.cli.loadtest import warn_of_time
    from slimq.loadtest.plan import Plan, Subject

    one = (Subject("fp32", "fp32"),)
    plan = Plan(subjects=one, baseline="fp32", modes=("closed",), rounds=100, seconds=3.0)
    warn_of_time(plan)
    assert capsys.readouterr().err == ""
    warn_of_time(replace(plan, minutes=4.0))
    assert "this takes about 5.02 minutes, but --minutes allows 4: it" in capsys.readouterr().err
    slow = replace(plan, modes=("open",), rate=1.0, seconds=0.5)  # blocks of eleven seconds
    warn_of_time(slow)
    assert "this takes about 18.5 minutes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.alone
def test_a_guarded_service_is_tested_with_its_key_and_states_from_a_file(
    served_with: Any, slimq: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    url = served_with(SLIMQ_API_KEY="s3cret")
    np.save(tmp_path / "states.npy", np.zeros((3, 4), np.float32))
    arguments = ("--policy", "tiny", "--variants", "other", "--modes", "open", "--rate", "100")
    options = ("--input", tmp_path / "states.npy", "--output", tmp_path, "--rounds", "2")
    key = {"SLIMQ_API_KEY": "s3cret"}
    done = slimq("loadtest", url, *arguments, *options, "--policies", tmp_path, variables=key)
    assert done.returncode == 0, done.stderr
    assert "Open loop: 100 requests/s, 2 rounds of 0.5 s, interleaved" in done.stdout
    assert "3 observations from" in done.stdout
    document = json.loads((tmp_path / "loadtest.json").read_text())
    assert sum(sample["sent"] for sample in document["samples"]) == 100
    assert all(sample["processor_us"] is not None for sample in document["samples"])
    assert "s3cret" not in (tmp_path / "loadtest.json").read_text() + done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "pong", "--variants", "fp32"), "available: tiny, tiny_frames"),
        (("--policy", "tiny", "--variants", "int8"), "unknown variant 'int8'; available: fp32"),
        (("--policy", "tiny", "--variants", "otter"), "did you mean 'other'?"),
        (("--policy", "tiny", "--variants", ","), "--variants: expected comma-separated names"),
        (
            ("--policy", "tiny", "--variants", "fp32", "--baseline", "other"),
            "unknown baseline 'other'; available: fp32",
        ),
        (
            ("--policy", "tiny", "--variants", "fp32", "--modes", "closed,opn"),
            "--modes: expected closed or open or steps, received 'opn', did you mean 'open'?",
        ),
        (
            ("--policy", "tiny", "--variants", "fp32", "--order", "x"),
            "--order: expected interleaved or alone, received 'x'",
        ),
        (("--policy", "tiny", "--variants", "fp32", "--p99", "soon"), "--p99: expected a positive"),
        (
            ("--policy", "tiny", "--variants", "fp32,other", "--rounds", "5"),
            "--rounds: expected at least 11 for 9 comparisons, received 5",
        ),
        (("--policy", "tiny", "--variants", "fp32", "--input", "none.npy"), "none.npy (No such"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_is_expected(
    served: str, refused: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    said = refused(served, "--output", str(tmp_path / "report"), *arguments)
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", "cannot be reached"),
        ("127.0.0.1:8000", "expected an address such as http://127.0.0.1:8000"),
        ("http://", "expected an address such as http://127.0.0.1:8000"),
        ("http://me:s3cret@127.0.0.1:9", "URL: expected an address without a name or password"),
    ],
)
def test_a_wrong_address_is_named(refused: Any, url: str, message: str) -> None:
    said = refused(url, "--policy", "tiny", "--variants", "fp32")
    assert message in said
    assert "s3cret" not in said
    assert len(said.splitlines()) == 1


def test_without_observations_nothing_is_sent(served: str, refused: Any, tmp_path: Path) -> None:
    said = refused(served, "--policy", "tiny", "--variants", "fp32", policies=tmp_path / "none")
    assert "--policies: expected a repository with real observations of tiny" in said
    (tmp_path / "empty").mkdir()
    said = refused(served, "--policy", "tiny", "--variants", "fp32", policies=tmp_path / "empty")
    assert "or --input FILE, received" in said


def test_an_output_folder_that_cannot_be_created_is_refused_before_the_load(
    served: str, refused: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("--policy", "tiny", "--variants", "fp32", "--output", str(tmp_path / "file" / "x"))
    assert "Not a directory" in refused(served, *arguments)


def begin(url: str, policies: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A load test of a minute."""
    command = [*COMMAND, "loadtest", url, "--policy", "tiny", "--variants", "fp32,other"]
    options = ["--modes", "closed", "--rounds", "500", "--seconds", "0.06", *arguments]
    return subprocess.Popen(
        [*command, *options, "--policies", str(policies), "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """What a script starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_until(stream: Any, text: str) -> str:
    """What a process says, up to a text that it must say within a minute."""
    seen, end = "", time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < end, seen
        part = stream.read(1)
        assert part, seen
        seen += part
    return seen


@pytest.mark.slow
def test_an_interrupt_still_reports_the_measurements(
    served: str, tiny_repository: Path, tmp_path: Path
) -> None:
    process = begin(served, tiny_repository, tmp_path)
    said = read_until(process.stderr, "closed other")
    os.killpg(process.pid, signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in out.splitlines()[1]
    assert "Traceback" not in said + rest
    document = json.loads((tmp_path / "loadtest.json").read_text())
    assert document["ended"] == "interrupted"
    assert 1 <= len(document["samples"]) < 1000
    assert (tmp_path / "loadtest.html").exists()


@pytest.mark.slow
def test_it_stops_at_its_time_limit(served: str, tiny_repository: Path, tmp_path: Path) -> None:
    process = begin(served, tiny_repository, tmp_path, "--minutes", "0.08")
    start = time.monotonic()
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "but --minutes allows 0.08: it will stop before everything is measured" in error
    assert "the load test ended after the time limit of 0.08 minutes" in error
    assert "ended after the time limit of 0.08 minutes" in out
    assert json.loads((tmp_path / "loadtest.json").read_text())["samples"]
    assert time.monotonic() - start < 50


@pytest.mark.slow
def test_if_the_service_goes_away_the_measurements_are_kept(
    tiny_repository: Path, tmp_path: Path
) -> None:
    with serve(tiny_repository, 120) as (service, url):
        process = begin(url, tiny_repository, tmp_path)
        read_until(process.stderr, "closed other")
        service.kill()
        out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    last = error.splitlines()[-1]
    assert last.startswith("slimq: 127.0.0.1:")
    assert "no request was answered" in last or "cannot be reached" in last
    assert "ended by an error" in out
    assert json.loads((tmp_path / "loadtest.json").read_text())["samples"]


@pytest.mark.slow
@pytest.mark.alone
def test_the_three_modes_together_compare_the_shipped_variants(
    slimq: Any, served_pong: str, tmp_path: Path
) -> None:
    arguments = ("--policy", "pong", "--variants", "fp32,int8,tiny", "--output", tmp_path)
    short = ("--rounds", 16, "--seconds", 0.2, "--sweeps", 2, "--step-seconds", 0.5, "--step", 2)
    policies = ("--policies", Path(__file__).parents[2] / "policies")
    done = slimq("loadtest", served_pong, *arguments, *short, *policies, "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = {(d["mode"], d["statistic"], d["label"]): d for d in document["differences"]}
    for name in ("p10", "processor"):
        tiny = found["closed", name, "tiny"]
        assert (tiny["verdict"], tiny["real"]) == ("better", True)
        assert tiny["high"] < 1
    steps = [sample for sample in document["samples"] if sample["mode"] == "steps"]
    assert {sample["label"] for sample in steps} == {"fp32", "int8", "tiny"}
    assert len({sample["rate"] for sample in steps}) > 3
    assert {capacity["label"] for capacity in document["capacities"]} == {"fp32", "int8", "tiny"}
