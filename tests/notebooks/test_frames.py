"""A run folder becomes tables: joins, clocks, torn lines, and folders that are no run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos.errors import RunUnreadable
from notebooks.analysis import consistency, measures
from notebooks.analysis.frames import Frames, load
from tests.notebooks import synthetic

Bare = Callable[..., Path]


def submit(op: int, kind: str, at: float, **value: Any) -> dict[str, Any]:
    return {"op": op, "process": "client", "type": kind, "f": "submit", "value": value, "time_ns": at}


def fault(op: int, kind: str, f: str, at: float, **value: Any) -> dict[str, Any]:
    return {"op": op, "process": "nemesis", "type": kind, "f": f, "value": value, "time_ns": at}


def effect(event: str, attempt: int, at: float, pid: int = 1) -> dict[str, Any]:
    return {"job_id": "j", "attempt": attempt, "event": event, "time_ns": at, "pid": pid, "type": "NOOP"}


def test_every_accepted_job_of_the_synthetic_run_has_a_row(sound: Frames) -> None:
    assert len(sound.jobs) == 1000
    assert sound.jobs["finished"].all()
    assert set(sound.jobs["status"]) == {"COMPLETED", "FAILED"}
    assert sound.span == (0.0, synthetic.CUTOFF)


def test_the_synthetic_run_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second = (synthetic.write(tmp_path / name / "run", seed=3, jobs=50) for name in "ab")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_sound_record_contradicts_itself_nowhere(sound: Frames, lossy: Frames) -> None:
    assert consistency.problems(sound) == consistency.problems(lossy) == []


def test_a_verdict_that_its_checks_do_not_bear_out_is_noticed(folder: Path) -> None:
    path = folder / "verdict.json"
    path.write_text(path.read_text().replace('"verdict": "valid"', '"verdict": "invalid"', 1))
    assert consistency.problems(load(folder)) == ["the verdict is invalid, but the worst of its checks is valid"]


def test_latency_counts_from_the_intended_time(bare: Bare) -> None:
    folder = bare(
        submit(1, "invoke", 3.0, type="NOOP", payload={}, intended_ns=2_000_000_000),
        submit(1, "ok", 3.5, id="j", status="PENDING"),
    )
    frames = load(folder)
    assert frames.operations["latency_s"].tolist() == [1.5]
    assert frames.jobs["submit_s"].tolist() == [1.5]


def test_tries_with_one_key_are_one_job(bare: Bare) -> None:
    body = {"type": "NOOP", "payload": {}, "idempotency_key": "k", "intended_ns": 1_000_000_000}
    folder = bare(
        submit(1, "invoke", 1.0, **body),
        submit(1, "info", 2.0, **body),
        submit(2, "invoke", 2.5, **body),
        submit(2, "ok", 3.0, id="j", status="PENDING"),
    )
    (job,) = load(folder).jobs.to_dict("records")
    assert (job["submits"], job["outcome"], job["submit_s"]) == (2, "ok", 2.0)


def test_an_operation_that_never_completed_is_info(bare: Bare) -> None:
    frames = load(bare(submit(1, "invoke", 1.0, type="NOOP", payload={})))
    assert frames.operations["outcome"].tolist() == ["info"]
    assert frames.operations["latency_s"].tolist() == [9.0]


def test_an_unfinished_job_lasts_until_the_cutoff_and_is_marked(lossy: Frames) -> None:
    unfinished = lossy.jobs[~lossy.jobs["finished"]]
    assert len(unfinished) == 12
    assert (unfinished["intended_s"] + unfinished["end_to_end_s"]).tolist() == pytest.approx([synthetic.CUTOFF] * 12)


def test_bodies_end_raise_are_cut_off_or_end_too_late(bare: Bare) -> None:
    folder = bare(
        submit(1, "invoke", 1.0, type="NOOP", payload={}),
        effects=(
            effect("start", 1, 1.0),
            effect("error", 1, 1.2),
            effect("start", 2, 2.0),
            effect("start", 3, 3.0, pid=2),
            effect("start", 4, 4.0, pid=3),
            effect("end", 3, 4.5, pid=2),
            effect("end", 4, 5.0, pid=3),
        ),
    )
    assert load(folder).executions["outcome"].tolist() == ["error", "cut", "stale", "ok"]


def test_a_fault_has_an_onset_interval_and_its_own_healing(bare: Bare) -> None:
    folder = bare(
        fault(1, "invoke", "partition.hold", 1.0, target="worker-redis"),
        fault(1, "ok", "partition.hold", 1.5, target="worker-redis"),
        fault(2, "invoke", "heal", 3.0, fault="partition.hold", target="api-redis"),
        fault(2, "ok", "heal", 3.1, fault="partition.hold", target="api-redis"),
        fault(3, "invoke", "heal", 4.0, fault="partition.hold", target="worker-redis"),
        fault(3, "ok", "heal", 4.2, fault="partition.hold", target="worker-redis"),
    )
    (found,) = load(folder).faults.to_dict("records")
    times = [found[name] for name in ("onset_from_s", "onset_to_s", "heal_from_s", "heal_to_s", "end_s")]
    assert times == [1.0, 1.5, 4.0, 4.2, 4.2]


def test_a_fault_that_was_never_healed_lasts_until_the_cutoff_and_a_kill_is_a_moment(bare: Bare) -> None:
    folder = bare(
        fault(1, "invoke", "refuse", 1.0, target="worker-redis"),
        fault(1, "ok", "refuse", 1.5, target="worker-redis"),
        fault(2, "invoke", "kill", 2.0, target="worker-1"),
        fault(2, "ok", "kill", 2.1, target="worker-1", pid=7),
    )
    assert load(folder).faults["end_s"].tolist() == [10.0, 2.1]


def test_orphans_are_counted_from_the_call_of_the_kill(sound: Frames) -> None:
    assert len(sound.orphans) == 4
    assert sound.orphans["restarted"].all()
    assert sound.orphans["seconds"].between(3.5, 6.0).all()


def test_a_torn_last_line_is_left_out(folder: Path) -> None:
    before = load(folder)
    with (folder / "effects.jsonl").open("a") as file:
        file.write('{"job_id": "torn", "att')
    assert len(load(folder).executions) == len(before.executions)


def test_damage_within_a_file_is_named_with_its_line(folder: Path) -> None:
    path = folder / "effects.jsonl"
    path.write_text("damaged\n" + path.read_text())
    with pytest.raises(RunUnreadable, match=r"effects\.jsonl:1"):
        load(folder)


def test_a_folder_that_is_no_run_says_which_file_is_missing_and_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(RunUnreadable, match=r"manifest\.json.*runs/latest"):
        load(tmp_path)


def test_a_run_that_never_began_says_so(folder: Path) -> None:
    (folder / "history.jsonl").unlink()
    with pytest.raises(RunUnreadable, match=r"history\.jsonl.*chaos run"):
        load(folder)


def test_a_run_that_was_never_judged_is_unknown(folder: Path) -> None:
    (folder / "verdict.json").unlink()
    assert load(folder).judgement.verdict == "unknown"


def test_no_retry_of_the_synthetic_run_is_early(sound: Frames) -> None:
    delays = measures.retry_delays(sound)
    assert set(delays["promised_s"]) == {2.0, 4.0, 8.0}
    assert (delays["late_s"] >= 0).all()


def test_losses_are_bounded_by_faults_not_by_jobs(sound: Frames, lossy: Frames) -> None:
    found = measures.losses(sound)
    assert (found.accepted, found.unfinished, found.faults) == (1000, 0, sound.record.fault_count) == (1000, 0, 12)
    assert found.fault_bound == pytest.approx(0.221, abs=1e-3)
    assert measures.losses(lossy).unfinished == 12


def test_after_a_healing_work_goes_on_and_the_backlog_returns(sound: Frames) -> None:
    resumed = measures.resumption(sound).set_index("label")
    cut = resumed.loc["partition.hold worker-redis"]
    assert cut["first_start_s"] < 0.5
    assert 1 < cut["backlog_s"] < 10
