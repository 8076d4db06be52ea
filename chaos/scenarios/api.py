"""What becomes of jobs when the API dies, and when it is asked for more than the backlog may hold."""

from __future__ import annotations

import random

from chaos.judge.promise import promise
from chaos.load.mix import HELD
from chaos.load.workload import Workload
from chaos.record.aim import API, POSTGRES
from chaos.record.history import Call, Run, logical
from chaos.record.plan import Guards, Planned, Settings
from chaos.record.verdict import Finding, broken
from chaos.scenarios.scenario import Scenario, again, nothing, rounds, usual

CROWD = 8  # so many submits, while one key is held, tell a stall from chance
HELD_SECONDS, HELD_EVERY = 7.0, 8.0  # more than the 2 s that an API waits for a key, at the usual pace of proofs too


def _held(rng: random.Random, seconds: float) -> list[Planned]:
    """Another session holds the keys one after the other, each while the job comes in that has it."""
    return [
        Planned(at + rng.uniform(0, 1), "key_held", POSTGRES, HELD_SECONDS, {"key": f"{HELD}{n}"})
        for n, at in enumerate(rounds(seconds, HELD_EVERY))
    ]


def _met(settings: Settings) -> list[float]:
    """From when on each of the jobs may come whose keys are held; it waits for that."""
    starts = rounds(settings.duration / settings.pace, HELD_EVERY)
    return [settings.steady_seconds + start * settings.pace for start in starts]


@promise(
    "submits-go-on", source='DESIGN "one request never delays another client"; an open transaction used to stall all'
)
def submits_go_on(run: Run) -> Finding:
    """While a transaction that stays open holds one idempotency key, submits of other jobs are answered before it ends.

    Judged are those that were sent after a submit of that very key, in the first half of the time until its holder let
    go. Where they wait for the holder, none is answered before; on a machine that is busy with other things, many are.
    """
    judged, stalled = 0, list[dict[str, object]]()
    for window in run.windows:
        if window.fault != "key_held" or window.healed_ns is None:
            continue
        within = [call for call in run.submits if window.onset_ns <= call.begun.time_ns <= window.healed_ns]
        first_ns = min((call.begun.time_ns for call in within if _is_held(call)), default=window.healed_ns)
        middle_ns = (first_ns + window.healed_ns) // 2
        others = [call for call in within if first_ns < call.begun.time_ns < middle_ns and not _is_held(call)]
        waited = [call for call in others if not _was_answered(call, window.healed_ns)]
        judged += len(others) if len(others) >= CROWD else 0
        if len(others) >= CROWD and len(waited) > 0.8 * len(others):
            stalled.append({"held_at": window.onset_ns, "others": len(others), "waited": len(waited)})
    if not judged:
        return Finding("unknown", "no submit came in while another waited for a key that was held")
    return broken(
        stalled,
        f"{len(stalled)} open transactions stalled the submits of other jobs",
        f"{judged} submits were sent while another waited for a key that was held, and answered before it was let go",
        judged=judged,
    )


def _is_held(call: Call) -> bool:
    return logical(call.begun).startswith(HELD)


def _was_answered(call: Call, before_ns: int) -> bool:
    return call.type == "ok" and call.done is not None and call.done.time_ns < before_ns


SCENARIOS = (
    Scenario(
        name="api-killed",
        claim="a submit that the API's death left unanswered is one job however often it is sent again",
        faults=again("kill", API, 5.0, 0.5),
        settings=usual(duration=20.0, jobs=1_200),
        load=lambda settings: Workload(settings, bursts=40),
        guards=Guards(faults=3),
    ),
    Scenario(
        name="key-held",
        claim="a key that an open transaction of somebody else holds delays the one request that has it, and no other",
        faults=_held,
        settings=usual(duration=40.0, jobs=800),
        load=lambda settings: Workload(settings, held=_met(settings)),
        guards=Guards(faults=2),
        promises=(submits_go_on,),
    ),
    Scenario(
        name="overload",
        claim="what the backlog cannot hold is refused with 429, and nothing that was accepted is dropped",
        faults=nothing,  # the bursts are the faults
        settings=usual(duration=20.0, jobs=1_000, concurrency=5, max_backlog=20),
        load=lambda settings: Workload(settings, mix={"SLEEP": 1}, sleep_seconds=(0.2, 0.6), bursts=5),
        guards=Guards(faults=3, overlap=False),
    ),
)
