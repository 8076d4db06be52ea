"""One place knows the scheduler: what it is told, what its answers mean, and that nobody else speaks of its insides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.record.aim import API, Aim, worker
from chaos.record.plan import Armed, Settings
from chaos.targets.ours.processes import callers
from chaos.targets.ours.target import OURS
from chaos.targets.target import Answer, Start
from scheduler.settings import Settings as Queue
from tests.cluster import ROOT

KNOWING = ("targets/ours/", "controls/", "model/")  # ours describes it, controls break it, the model is its protocol
INSIDES = re.compile(
    r"scheduler\.(jobs|workers|attempts|dead_letters)\b|jobs_stream|SCHEDULER_|[\"'](/jobs|/readyz|/stats)"
)
FIRST = worker(1)
SAID = {"__main__.py": 'envvar="SCHEDULER_DATA_DIR"'}  # an option of `chaos up` that is the scheduler's too


def spoken(path: Path) -> list[str]:
    own = str(path.relative_to(ROOT / "chaos"))
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"{own}: {line.strip()}" for line in lines if INSIDES.search(line) and SAID.get(own, "\0") not in line]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "chaos").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "chaos"))
)
def test_nothing_but_the_target_knows_tables_keys_paths_or_variables_of_the_scheduler(path: Path) -> None:
    if not str(path.relative_to(ROOT / "chaos")).startswith(KNOWING):
        assert spoken(path) == []


def test_the_look_for_insides_finds_them_where_they_are() -> None:
    assert spoken(ROOT / "chaos/targets/ours/target.py")
    assert spoken(ROOT / "chaos/targets/ours/processes.py")


def start(process: Aim = FIRST, *, settings: Settings | None = None, **more: Any) -> dict[str, str]:
    settings = settings or Settings()
    command = OURS.command(Start(process, "postgresql://p", "redis://r", 3001, settings, **more))
    assert command.arguments[-2:] == ("scheduler", process.role)
    return dict(command.variables)


def test_every_number_that_checks_rely_on_is_told_to_the_process_in_a_variable_that_it_knows() -> None:
    told = start(settings=Settings(lease_seconds=2.0, backoff_factor=3.0, grace_seconds=0.4, max_backlog=20))
    assert told["SCHEDULER_LEASE_SECONDS"] == "2.0"
    assert told["SCHEDULER_BACKOFF_FACTOR"] == "3.0"
    assert told["SCHEDULER_GRACE_SECONDS"] == "0.4"
    assert told["SCHEDULER_MAX_BACKLOG"] == "20"
    assert {name.removeprefix("SCHEDULER_").lower() for name in told} <= Queue.model_fields.keys()


def test_a_witness_a_control_and_a_crash_point_come_with_what_they_need_and_where_they_are_wanted() -> None:
    broken = Settings(control="no-fence", control_at="family:no-fence", control_on="worker-1")
    armed = Armed("worker.after-claim", "reply_lost", 3)
    told = start(settings=broken, ledger=Path("/run/effects.jsonl"), armed=armed)
    assert (told["CHAOS_LEDGER"], told["CHAOS_CONTROL"]) == ("/run/effects.jsonl", "family:no-fence")
    assert len(told["SCHEDULER_JOBS"].split(",")) == 2
    assert told["SCHEDULER_CRASH_POINTS"] == "worker.after-claim:lose@3"
    assert not {"CHAOS_LEDGER", "CHAOS_CONTROL", "SCHEDULER_CRASH_POINTS"} & start(API, settings=broken).keys()


def test_the_callers_variables_have_the_last_word_but_for_what_the_rack_decides() -> None:
    mine = {"SCHEDULER_LEASE_SECONDS": "9", "SCHEDULER_REDIS_URL": "redis://theirs", "PATH": "/bin"}
    told = start(variables=callers(mine))
    assert (told["SCHEDULER_LEASE_SECONDS"], told["SCHEDULER_REDIS_URL"]) == ("9", "redis://r")


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (202, {"id": "j", "status": "PENDING"}, Answer("ok", {"id": "j", "status": "PENDING"})),
        (200, {"id": "j", "status": "COMPLETED"}, Answer("ok", {"id": "j", "status": "COMPLETED"})),
        (409, {"detail": "key reused"}, Answer("fail", error="409 key reused")),
        (422, {"detail": "no such type"}, Answer("fail", error="422 no such type")),
        (429, {"detail": "backlog full"}, Answer("fail", error="429 backlog full", again=True)),
        (503, {"detail": "no store"}, Answer("info", error="503 no store", again=True)),
        (202, {"status": "PENDING"}, Answer("info", error="202 ", again=True)),
        (202, ["torn"], Answer("info", error="202 ", again=True)),
    ],
)
def test_an_answer_says_whether_the_job_was_accepted_and_whether_to_ask_again(
    status: int, body: Any, answer: Answer
) -> None:
    assert OURS.answer(status, body) == answer


def test_a_job_is_cancelled_by_its_id_and_a_final_one_is_refused_for_good() -> None:
    assert OURS.cancel("j").path == "/jobs/j/cancel"
    assert OURS.answer(409, {"detail": "job j is COMPLETED already"}).again is False


def test_a_submit_without_a_key_says_nothing_of_one() -> None:
    assert msgspec.json.decode(OURS.submit("NOOP", {"a": 1}, None).content) == {"type": "NOOP", "payload": {"a": 1}}
    assert msgspec.json.decode(OURS.submit("NOOP", {}, "k").content)["idempotency_key"] == "k"
