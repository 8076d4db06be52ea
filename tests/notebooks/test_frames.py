"""A run folder becomes tables: joins, clocks, torn lines, and folders that are no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.errors import RunUnreadable
from notebooks.analysis import consistency, measures
from notebooks.analysis.frames import Frames, load
from tests.notebooks import synthetic
from tests.stories import Story


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


def told(story: Story, folder: Path) -> Frames:
    """The tables of a hand-made run, which lasts 60 s."""
    return load(story.write(folder).path)


def test_latency_counts_from_the_intended_time(tmp_path: Path) -> None:
    frames = told(Story().submit("j", intended=2.0, at=3.0, until=3.5), tmp_path)
    assert frames.operations["latency_s"].tolist() == [1.5]
    assert frames.jobs["submit_s"].tolist() == [1.5]


def test_tries_with_one_key_are_one_job(tmp_path: Path) -> None:
    first = Story().submit("j", intended=1.0, at=1.0, until=2.0, told="info")
    (job,) = told(first.submit("j", intended=1.0, at=2.5, until=3.0), tmp_path).jobs.to_dict("records")
    assert (job["submits"], job["outcome"], job["submit_s"]) == (2, "ok", 2.0)


def test_an_operation_that_never_completed_is_info(tmp_path: Path) -> None:
    frames = told(Story().submit("j", at=1.0, told=None), tmp_path)
    assert frames.operations["outcome"].tolist() == ["info"]
    assert frames.operations["latency_s"].tolist() == [59.0]


def test_an_unfinished_job_lasts_until_the_cutoff_and_is_marked(lossy: Frames) -> None:
    unfinished = lossy.jobs[~lossy.jobs["finished"]]
    assert len(unfinished) == 12
    assert (unfinished["intended_s"] + unfinished["end_to_end_s"]).tolist() == pytest.approx([synthetic.CUTOFF] * 12)


def test_bodies_end_raise_are_cut_off_or_end_too_late(tmp_path: Path) -> None:
    story = Story().submit("j", told=None).start("j", at=1.0).error("j", at=1.2).start("j", 2, at=2.0)
    story.start("j", 3, at=3.0, pid=2).start("j", 4, at=4.0, pid=3).end("j", 3, at=4.5, pid=2).end("j", 4, at=5, pid=3)
    assert told(story, tmp_path).executions["outcome"].tolist() == ["error", "cut", "stale", "ok"]


def test_a_fault_has_an_onset_interval_and_its_own_healing(tmp_path: Path) -> None:
    story = Story().fault("partition.hold", "worker-redis", at=1.0, until=1.5)
    story.heal("partition.hold", "api-redis", at=3.0).heal("partition.hold", "worker-redis", at=4.0, until=4.2)
    (found,) = told(story, tmp_path).faults.to_dict("records")
    times = [found[name] for name in ("onset_from_s", "onset_to_s", "heal_from_s", "heal_to_s", "end_s")]
    assert times == [1.0, 1.5, 4.0, 4.2, 4.2]


def test_a_fault_that_was_never_healed_lasts_until_the_cutoff_and_a_kill_is_a_moment(tmp_path: Path) -> None:
    story = Story().fault("refuse", "worker-redis", at=1.0).fault("kill", "worker-1", at=2.0, until=2.1, pid=7)
    assert told(story, tmp_path).faults["end_s"].tolist() == [60.0, 2.1]


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
