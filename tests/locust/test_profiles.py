"""The load profiles as processes: what they send, what they record, and when they stop."""

from __future__ import annotations

import ast
import json
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from chaos.load.mix import MIX
from chaos.load.workload import Workload
from chaos.record.plan import Settings
from locustfiles.mix import SLEEP_SECONDS, jobs
from tests.locust.conftest import ROOT, Ended, child

Headless = Callable[..., Ended]
StandIn = Callable[..., str]


def test_a_burst_sees_every_job_through_and_stops_by_itself(headless: Headless, stand_in: StandIn) -> None:
    ended = headless("burst", stand_in(), "-u", "60", "-r", "60", "-t", "50s", BURST_JOBS="60")
    assert ended.exit_status == 0, ended.output
    assert "burst: 60 jobs: 60 final" in ended.output
    submits, waits = ended.operations("submit"), ended.operations("wait")
    assert len(submits) == 60
    assert {done["type"] for _, done in submits + waits} == {"ok"}
    final = {done["value"]["id"] for _, done in waits if done["value"]["status"] in {"COMPLETED", "FAILED"}}
    assert final == {done["value"]["id"] for _, done in submits}


def test_a_burst_is_submitted_before_its_first_job_is_final(headless: Headless, stand_in: StandIn) -> None:
    ended = headless("burst", stand_in(), "-u", "60", "-r", "60", "-t", "50s", BURST_JOBS="60")
    first_wait = min(begun["time_ns"] for begun, _ in ended.operations("wait"))
    assert sum(begun["time_ns"] < first_wait for begun, _ in ended.operations("submit")) > 30


def test_fewer_users_than_jobs_take_several_each(headless: Headless, stand_in: StandIn) -> None:
    ended = headless("burst", stand_in(), "-u", "5", "-r", "5", "-t", "50s", BURST_JOBS="40")
    assert ended.exit_status == 0, ended.output
    assert len(ended.operations("submit")) == 40


def test_the_seed_decides_types_and_payloads() -> None:
    def shape(seed: int) -> list[tuple[str, object]]:
        return [(job.type, job.payload) for job in islice(jobs(seed, "key", "http://localhost/hook"), 400)]

    assert shape(7) == shape(7) != shape(8)
    assert {kind for kind, _ in shape(7)} == {"NOOP", "SLEEP", "WEBHOOK", "FLAKY", "FAIL"}


def test_without_a_webhook_address_no_webhook_is_submitted() -> None:
    assert "WEBHOOK" not in {job.type for job in islice(jobs(7, "key"), 400)}


def test_trouble_is_classified_and_retried_with_the_same_key(headless: Headless, stand_in: StandIn) -> None:
    host = stand_in("--trouble", "503,429,cut,accept-then-cut")
    ended = headless("burst", host, "-u", "4", "-r", "4", "-t", "50s", BURST_JOBS="12")
    assert ended.exit_status == 0, ended.output
    submits = ended.operations("submit")
    outcomes = Counter(done["type"] for _, done in submits)
    assert outcomes == {"ok": 12, "info": 3, "fail": 1}
    (refused,) = (done for _, done in submits if done["type"] == "fail")
    assert refused["error"].startswith("429")
    assert len({begun["value"]["idempotency_key"] for begun, _ in submits}) == 12
    assert _get(f"{host}/jobs")["count"] == 12


def test_an_unknown_outcome_retires_its_process(headless: Headless, stand_in: StandIn) -> None:
    ended = headless("burst", stand_in("--trouble", "cut,503"), "-u", "2", "-r", "2", "-t", "50s", BURST_JOBS="8")
    for begun, done in ended.operations("submit"):
        if done["type"] == "info":
            later = [line for line in ended.history if line["time_ns"] > done["time_ns"]]
            assert begun["process"] not in {line["process"] for line in later}


def test_a_process_does_one_operation_at_a_time(headless: Headless, stand_in: StandIn) -> None:
    ended = headless("burst", stand_in(), "-u", "10", "-r", "10", "-t", "50s", BURST_JOBS="30")
    open_operations: set[str] = set()
    for line in ended.history:
        if line["type"] == "invoke":
            assert line["process"] not in open_operations
            open_operations.add(line["process"])
        else:
            open_operations.remove(line["process"])


def test_a_refused_job_is_not_submitted_again(headless: Headless, stand_in: StandIn) -> None:
    ended = headless("burst", stand_in("--trouble", "422"), "-u", "1", "-r", "1", "-t", "50s", BURST_JOBS="2")
    assert ended.exit_status == 1
    assert [done["type"] for _, done in ended.operations("submit")] == ["fail", "ok"]


def test_a_refused_connection_certainly_did_not_happen(headless: Headless, free_port: int) -> None:
    ended = headless(
        "burst", f"http://127.0.0.1:{free_port}", "-u", "2", "-r", "2", BURST_JOBS="2", BURST_JOB_SECONDS="1"
    )
    assert ended.exit_status == 1
    assert {done["type"] for _, done in ended.operations("submit")} == {"fail"}


def test_jobs_that_are_not_final_in_time_are_never_called_lost(headless: Headless, stand_in: StandIn) -> None:
    host = stand_in("--never", "SLEEP")
    ended = headless("burst", host, "-u", "30", "-r", "30", "-t", "2s", BURST_JOBS="30", BURST_DRAIN_SECONDS="1")
    assert ended.exit_status == 1
    assert "not final" in ended.output
    assert "Not final is not lost" in ended.output
    assert "fail" not in {line["type"] for line in ended.history}


def test_the_time_limit_drains_instead_of_cutting_jobs_off(headless: Headless, stand_in: StandIn) -> None:
    """Locust quits at the limit; without the drain the jobs under way would look lost."""
    ended = headless("burst", stand_in(), "-u", "200", "-r", "200", "-t", "1s", BURST_JOBS="200")
    assert ended.exit_status == 0, ended.output
    assert ", 0 not final" in ended.output


def test_steady_load_arrives_by_its_seeded_schedule(headless: Headless, stand_in: StandIn) -> None:
    env = {"STEADY_RATE": "60", "STEADY_SECONDS": "2", "STEADY_SEED": "3"}
    first, second = (_gaps(headless("steady", stand_in(), **env)) for _ in range(2))
    assert len(first) > 60
    assert first == pytest.approx(second, abs=1e-6)


def test_steady_load_goes_on_when_nothing_is_answered_final(headless: Headless, stand_in: StandIn) -> None:
    ended = headless(
        "steady",
        stand_in("--never", "SLEEP,NOOP"),
        STEADY_RATE="40",
        STEADY_SECONDS="2",
        STEADY_MAX_IN_FLIGHT="20",
        STEADY_JOB_SECONDS="3",
    )
    assert ended.exit_status == 1
    assert "arrivals were never sent" in ended.output
    assert len(ended.operations("submit")) >= 20


def test_the_web_page_runs_a_burst_and_stays(stand_in: StandIn, free_port: int) -> None:
    page, host = f"http://127.0.0.1:{free_port}", stand_in()
    command = ("-m", "locust", "-f", "locustfiles/burst.py", "--web-host", "127.0.0.1")
    with child(*command, "--web-port", str(free_port), env={"BURST_JOBS": "20"}) as locust:
        eventually(lambda: _get(f"{page}/stats/requests")["state"] == "ready")
        for jobs_so_far in (20, 40):
            form = urllib.parse.urlencode({"user_count": 20, "spawn_rate": 20, "host": host}).encode()
            _get(f"{page}/swarm", form)
            eventually(lambda: _get(f"{host}/jobs")["count"] == jobs_so_far)  # noqa: B023  (called at once)
            eventually(lambda: _get(f"{page}/stats/requests")["state"] == "stopped")
        assert locust.poll() is None
        rows = {row["method"] for row in _get(f"{page}/stats/requests")["stats"]}
        assert "E2E" in rows


def test_a_profile_reads_the_environment_when_a_run_begins_and_not_before(headless: Headless, tmp_path: Path) -> None:
    wrong = {"STEADY_RATE": "many", "BURST_JOBS": "many", "RUN_HISTORY": str(tmp_path / "none.jsonl")}
    with child("-c", "import locustfiles.burst, locustfiles.steady", env=wrong) as importing:
        output, _ = importing.communicate(timeout=60)
    assert (importing.returncode, list(tmp_path.iterdir())) == (0, []), output
    for profile, setting in (("burst", "BURST_JOBS"), ("steady", "STEADY_RATE")):
        refused = headless(profile, "http://127.0.0.1:1", **{setting: "many"})
        assert (refused.exit_status, refused.history) == (1, [])
        assert f"{profile}: a setting is no number" in refused.output
        assert "'many'" in refused.output


@pytest.mark.parametrize("path", sorted((ROOT / "locustfiles").glob("*.py")), ids=lambda path: path.name)
def test_profiles_know_the_scheduler_by_http_only_and_share_the_mix_with_the_harness(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.split(".")[0] in {"scheduler", "chaos"}} <= {"chaos.load.mix"}


def test_a_profile_and_a_workload_submit_the_same_mix() -> None:
    load = Workload(Settings(jobs=4_000), sleep_seconds=SLEEP_SECONDS)
    ours = Counter(each.job.type for each in load.arrivals(1, "http://localhost/hook"))
    theirs = Counter(job.type for job in islice(jobs(1, "key", "http://localhost/hook"), 4_000))
    assert ours.keys() == theirs.keys() == MIX.keys()
    assert all(abs(ours[type] - theirs[type]) < 200 for type in MIX)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not so within {seconds} s")


def _get(url: str, form: bytes | None = None) -> dict[str, Any]:
    with urllib.request.urlopen(url, form, timeout=10) as response:  # noqa: S310  (our own addresses)
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def _gaps(ended: Ended) -> list[float]:
    intended = sorted(begun["value"]["intended_ns"] / 1e9 for begun, _ in ended.operations("submit"))
    return [later - earlier for earlier, later in pairwise(intended)]
