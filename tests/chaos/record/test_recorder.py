"""The record survives what the harness does to its writers, and reads back as it was written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.errors import RunUnreadable
from chaos.record import runs
from chaos.record.history import Effect, Final, Operation, Run, Sample, Stores, calls
from chaos.record.plan import Manifest
from chaos.record.recorder import Recorder, Tail, merge_histories, read_records, write_records
from chaos.record.verdict import Check, Judgement
from tests.stories import Story

WRITER = """
import os, sys, time
from pathlib import Path
from chaos.record.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]))
while True:
    recorder.ok(recorder.invoke("client", "submit", {"n": 1}), {"id": "j"})
    os.write(1, b".")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_operations_are_joined_by_their_number(path: Path) -> None:
    recorder = Recorder(path)
    first, second = recorder.invoke("a", "submit", 1), recorder.invoke("b", "submit", 2)
    recorder.info(second, "timeout")
    recorder.ok(first, 3)
    recorder.fail(recorder.invoke("c", "submit", 4), "refused")
    recorder.invoke("d", "submit", 5)
    recorder.close()
    found = [(call.begun.value, call.type) for call in calls(read_records(path, Operation))]
    assert found == [(1, "ok"), (2, "info"), (4, "fail"), (5, "info")]


def test_threads_share_a_recorder_without_mixing_lines(path: Path) -> None:
    recorder = Recorder(path)

    def work(name: str) -> None:
        for n in range(200):
            recorder.ok(recorder.invoke(name, "submit", {"n": n}), {"n": n})

    threads = [threading.Thread(target=work, args=(f"client-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    recorder.close()
    history = read_records(path, Operation)
    assert [each.index for each in history] == list(range(1600))
    assert [each.time_ns for each in history] == sorted(each.time_ns for each in history)
    assert all(call.done and call.done.value == call.begun.value for call in calls(history))


def test_what_a_killed_writer_wrote_is_all_there(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}) as writer:
        assert writer.stdout is not None
        reported = len(writer.stdout.read(50))
        writer.send_signal(signal.SIGKILL)
    assert len(calls(read_records(path, Operation))) >= reported


def test_an_exception_inside_a_pair_is_recorded_as_unknown_and_raised(path: Path) -> None:
    recorder = Recorder(path)
    with pytest.raises(ZeroDivisionError), recorder.paired("nemesis", "kill", {"target": "w"}) as added:
        added["pid"] = 1 // 0
    recorder.close()
    (call,) = calls(read_records(path, Operation))
    assert (call.type, call.done and call.done.error) == (
        "info",
        "ZeroDivisionError: integer division or modulo by zero",
    )


EFFECT = Effect("j", 1, "start", 5, 7, "NOOP")


@given(cut=st.integers(0, 200))
def test_a_torn_last_line_is_left_out_wherever_it_was_cut(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "effects.jsonl"
    line = msgspec.json.encode(EFFECT)
    path.write_bytes(line + b"\n" + line[: min(cut, len(line) - 1)])
    assert read_records(path, Effect) == [EFFECT]


def test_damage_before_the_last_line_is_named_with_its_line(path: Path) -> None:
    path.write_bytes(b'{"job_id":"j"\n' + msgspec.json.encode(EFFECT) + b"\n")
    with pytest.raises(RunUnreadable, match=r"history\.jsonl:1"):
        read_records(path, Effect)


def test_a_whole_last_line_without_its_newline_counts(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(EFFECT))
    assert read_records(path, Effect) == [EFFECT]


def test_a_missing_file_is_an_empty_record(path: Path) -> None:
    assert read_records(path, Effect) == []
    assert Tail(path).read() == []


def test_a_tail_returns_each_whole_record_once(path: Path) -> None:
    tail, line = Tail(path), msgspec.json.encode(EFFECT) + b"\n"
    path.write_bytes(line + line[:10])
    assert tail.read() == [EFFECT]
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(line[10:])
    assert tail.read() == [EFFECT]


def test_histories_of_two_processes_merge_in_order_of_time(tmp_path: Path) -> None:
    for name, times in (("a", (1, 4)), ("b", (2, 3))):
        ends = zip(("invoke", "ok"), times, strict=True)
        part = [Operation(n, 0, name, kind, "submit", n, at) for n, (kind, at) in enumerate(ends)]  # type: ignore[arg-type]
        write_records(tmp_path / name, part)
    merged = merge_histories([tmp_path / "a", tmp_path / "b"])
    assert [(each.index, each.process, each.time_ns) for each in merged] == [
        (0, "a", 1),
        (1, "b", 2),
        (2, "b", 3),
        (3, "a", 4),
    ]
    assert [call.done and call.done.process for call in calls(merged)] == ["a", "b"]


class TestRunFolders:
    def test_latest_points_to_the_newest_and_names_never_clash(self, tmp_path: Path) -> None:
        first, second = runs.create("demo", 1, tmp_path), runs.create("demo", 1, tmp_path)
        assert first.path != second.path
        assert (tmp_path / "latest").resolve() == second.path.resolve()
        assert not (tmp_path / "latest").readlink().is_absolute()
        assert second.logs.is_dir()

    def test_a_run_is_its_owners_alone_as_payloads_and_logs_lie_in_it(self, tmp_path: Path) -> None:
        assert runs.create("demo", 1, tmp_path / "runs").path.stat().st_mode & 0o777 == 0o700

    def test_a_run_reads_back_as_it_was_written(self, tmp_path: Path) -> None:
        story = Story().done("j").sample(at=1, stream=0, pending=0)
        folder, told = story.write(tmp_path), story.run
        found = runs.load_run(folder.path)
        assert (found.manifest, found.history, found.effects) == (told.manifest, told.history, told.effects)
        assert (found.finals, found.samples, found.stores) == (told.finals, told.samples, told.stores)

    def test_a_run_that_broke_off_still_loads(self, tmp_path: Path) -> None:
        folder = runs.create("demo", 1, tmp_path)
        folder.write(folder.manifest, Manifest("demo", 1, run="demo"))
        run = runs.load_run(folder.path)
        assert run == Run(Manifest("demo", 1, run="demo"), stores=Stores(), path=folder.path.resolve())

    def test_a_folder_without_a_manifest_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunUnreadable, match=r"holds no manifest\.json"):
            runs.load_run(tmp_path)

    def test_a_verdict_reads_back(self, tmp_path: Path) -> None:
        folder = runs.create("demo", 1, tmp_path)
        judgement = Judgement("valid", [Check("terminal", "valid", "all final")], 1, 2, "fine")
        folder.write(folder.verdict, judgement)
        assert runs.load_judgement(folder.path) == judgement

    def test_the_manifest_says_where_it_was_made(self) -> None:
        assert runs.machine()["cpus"]
        assert runs.versions()["python"]
        wall, mono = runs.clock_origin()
        assert wall > 1e9
        assert mono > 0


def test_a_final_answer_may_hold_more_than_the_harness_reads() -> None:
    told = b'{"id":"j","type":"NOOP","status":"COMPLETED","attempt":1,"max_attempts":4,"payload":{},"new":1}'
    assert msgspec.json.decode(told, type=Final).is_final
    assert msgspec.json.decode(b'{"time_ns":1,"stream":null}', type=Sample).stream is None
