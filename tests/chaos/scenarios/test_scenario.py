"""A scenario is a value, and a plan is what it comes to: its seed decides everything, pace changes only times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.controls.control import Control, every
from chaos.errors import RunUnreadable, UsageError
from chaos.load.mix import HELD
from chaos.load.workload import Workload
from chaos.planning import Options, resolve
from chaos.record.aim import API, worker
from chaos.record.plan import Manifest, Plan, Planned, Settings
from chaos.record.runs import Folder, load_manifest
from chaos.scenarios import SCENARIOS, UNLISTED, find
from chaos.scenarios.scenario import Scenario
from scheduler.settings import Settings as Queue

EVERY = [*SCENARIOS.values(), *UNLISTED.values()]


@pytest.mark.parametrize("scenario", EVERY, ids=lambda each: each.name)
def test_one_seed_is_one_plan(scenario: Scenario) -> None:
    assert resolve(scenario, Options(seed=5)) == resolve(scenario, Options(seed=5))


@pytest.mark.parametrize("scenario", EVERY, ids=lambda each: each.name)
def test_pace_multiplies_the_times_of_a_schedule_and_leaves_its_faults(scenario: Scenario) -> None:
    whole, hurried = (resolve(scenario, Options(seed=5, pace=pace)).schedule for pace in (1.0, 0.4))
    assert [(p.fault, p.target, p.arguments) for p in hurried] == [(p.fault, p.target, p.arguments) for p in whole]
    assert [p.at for p in hurried] == pytest.approx([p.at * 0.4 for p in whole])
    assert [p.seconds for p in hurried] == pytest.approx([p.seconds * 0.4 for p in whole])


def test_pace_shortens_every_time_but_those_of_the_harness_and_leaves_what_is_no_time() -> None:
    whole, quick = (resolve(find("worker-terminated"), Options(pace=pace)).settings for pace in (1.0, 0.4))
    assert msgspec.structs.asdict(quick) == msgspec.structs.asdict(whole) | {
        "pace": 0.4,
        "jobs": 160,
        "duration": pytest.approx(9.6),
        "steady_seconds": pytest.approx(1.2),
        "lease_seconds": 2.0,
        "backoff_base_seconds": 0.8,
        "grace_seconds": 0.4,
    }


def test_the_caller_has_the_last_word_on_jobs_and_seconds_whatever_the_pace() -> None:
    settings = resolve(find("worker-killed"), Options(jobs=7, seconds=11.0, pace=0.4)).settings
    assert (settings.jobs, settings.duration, settings.lease_seconds) == (7, 11.0, 2.0)


@pytest.mark.parametrize("name", ["lease_seconds", "max_attempts", "backoff_base_seconds", "backoff_factor",
                                  "grace_seconds", "max_backlog", "concurrency"])  # fmt: skip
def test_a_setting_that_no_scenario_changes_is_the_queues_own(name: str) -> None:
    assert getattr(Settings(), name) == Queue.model_fields[name].default


@pytest.mark.parametrize("control", every().values(), ids=lambda each: each.name)
def test_a_control_is_part_of_the_plan_with_all_that_follows_from_it(control: Control) -> None:
    settings = resolve(find(control.scenario), Options(control=control.name)).settings
    assert (settings.control, settings.control_at, settings.control_on) == (control.name, control.address, control.on)
    assert settings.drain_seconds == control.drain_seconds
    assert settings.keyed == (control.on != "client")


@pytest.mark.parametrize(
    ("on", "broken"),
    [("worker", [worker(1), worker(2)]), ("worker-1", [worker(1)]), ("api", [API]), ("client", [])],
)
def test_a_control_breaks_the_processes_that_it_names_and_no_other(on: str, broken: list[str]) -> None:
    settings = Settings(control="no-fence", control_at=every()["no-fence"].address, control_on=on)
    assert [each for each in (API, worker(1), worker(2)) if settings.broken_build(each)] == broken
    assert Settings().broken_build(API) is None


def test_an_unknown_control_or_fault_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="no-fence"):
        resolve(find("calm"), Options(control="no-fense"))
    with pytest.raises(UsageError, match=r"partition\.hold"):
        resolve(find("calm"), Options(schedule=[Planned(0, "partition.hodl", worker(1), 1)]))


class TestTheManifest:
    PLAN = resolve(find("worker-killed"), Options(seed=3, jobs=5, pace=0.5, control="no-fence"))

    def test_a_plan_is_its_head_and_reads_back_whole(self, folder: Folder) -> None:
        folder.write(folder.manifest, Manifest(*msgspec.structs.astuple(self.PLAN), run="r", versions={"python": "3"}))
        assert load_manifest(folder.path).plan == self.PLAN
        raw = msgspec.json.decode(folder.manifest.read_bytes())
        assert list(raw)[:4] == ["scenario", "seed", "settings", "schedule"]
        assert raw["schedule"][0]["target"] == "worker-1"

    def test_one_of_an_older_version_can_be_read_but_says_that_it_cannot_be_replayed(self, folder: Folder) -> None:
        old = {"run": "r", "scenario": "calm", "seed": 9, "settings": {"lease_seconds": 2.0}, "schedule": []}
        folder.manifest.write_bytes(msgspec.json.encode(old))
        manifest = load_manifest(folder.path)
        assert (manifest.settings.lease_seconds, manifest.settings.backoff_factor) == (2.0, 2.0)
        with pytest.raises(RunUnreadable, match="chaos run calm --seed 9"):
            _ = manifest.plan

    def test_a_target_that_is_none_is_damage(self, folder: Folder) -> None:
        planned = {"at": 0, "fault": "kill", "target": "worker-0", "seconds": 1}
        folder.manifest.write_bytes(
            msgspec.json.encode({"run": "r", "scenario": "x", "seed": 1, "schedule": [planned]})
        )
        with pytest.raises(RunUnreadable, match="worker-0"):
            load_manifest(folder.path)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Folder:
        return Folder(tmp_path)


def workload(jobs: int, **more: Any) -> Workload:
    return Workload(Settings(jobs=jobs, steady_seconds=0.0, duration=10.0), **more)


@pytest.mark.parametrize("jobs", [3, 5, 40])
def test_the_same_seed_submits_the_same_jobs_and_every_type_of_the_mix_is_among_them(jobs: int) -> None:
    load = workload(jobs)
    arrivals = load.arrivals(7, "http://sink")
    assert arrivals == load.arrivals(7, "http://sink")
    assert arrivals != load.arrivals(8, "http://sink")
    assert len({each.job.type for each in arrivals}) == min(jobs, len(load.mix))
    assert len({each.job.idempotency_key for each in arrivals}) == jobs


def test_bursts_are_crowds_evenly_spread() -> None:
    times = {each.at for each in workload(200, bursts=4).arrivals(1, "http://sink")}
    assert times == {0.0, 2.5, 5.0, 7.5}


def test_a_share_is_cancelled_soon_after_and_keys_that_others_hold_come_when_they_are_to() -> None:
    arrivals = workload(200, cancelled=0.5, held=(1.0, 4.0)).arrivals(1, "")
    waits = [each.cancel_after for each in arrivals if each.cancel_after is not None]
    assert 60 < len(waits) < 140
    assert 0.2 <= min(waits) <= max(waits) <= 1.0
    assert [(each.at, each.job.idempotency_key) for each in arrivals if each.job.idempotency_key.startswith(HELD)] == [
        (1.0, "held-0"),
        (4.0, "held-1"),
    ]
    assert arrivals == sorted(arrivals, key=lambda each: each.at)


def test_each_key_is_held_when_the_job_comes_that_has_it() -> None:
    for pace in (1.0, 0.4):
        plan = resolve(find("key-held"), Options(seed=3, pace=pace))
        load = find("key-held").load(plan.settings)
        assert isinstance(load, Workload)
        assert len(plan.schedule) == len(load.held) >= 5
        assert [each.arguments["key"] for each in plan.schedule] == [f"{HELD}{n}" for n in range(len(load.held))]
        for holds, at in zip(plan.schedule, load.held, strict=True):
            assert at - plan.settings.steady_seconds <= holds.at, "the job comes first, and waits"
            assert holds.seconds > 2.0, "as an API does"


def test_pace_shortens_the_bodies_of_jobs() -> None:
    plan: Plan = resolve(find("worker-blocked"), Options(pace=0.5))
    load = find("worker-blocked").load(plan.settings)
    assert isinstance(load, Workload)
    lengths = [each.job.payload["seconds"] for each in load.arrivals(1, "") if each.job.type == "BLOCK"]
    assert lengths
    assert all(3.0 <= seconds <= 4.0 for seconds in lengths)
