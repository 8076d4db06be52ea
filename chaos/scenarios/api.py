"""What becomes of jobs when the API dies, and when it is asked for more than the backlog may hold."""

from __future__ import annotations

import math
import random

from chaos.judge.promise import promise
from chaos.load.mix import HELD
from chaos.load.workload import Workload
from chaos.record.aim import API, POSTGRES
from chaos.record.history import SECOND, Call, Run, logical
from chaos.record.plan import Guards, Planned, Settings
from chaos.record.verdict import Finding, broken
from chaos.scenarios.scenario import Scenario, again, nothing, rounds, usual

HELD_SECONDS, HELD_EVERY = 7.0, 8.0  # more than an API waits for a key, at the usual pace of proofs too
AT_ONCE_SECONDS = (
    1.0  # what other submits may take meanwhile, on a busy machine; an API that waits makes them wait longer
)


def _held(rng: random.Random, seconds: float) -> list[Planned]:
    """Another session holds the keys one after the other, each while the job comes in that has it."""
    return [
        Planned(at + rng.uniform(0, 1), "key_held", POSTGRES, HELD_SECONDS, {"key": f"{HELD}{n}"})
        for n, at in enumerate(rounds(seconds, HELD_EVERY))
    ]


def _met(settings: Settings) -> list[float]:
    """When the jobs come whose keys are held: soon after that began."""
    starts = rounds(settings.duration / settings.pace, HELD_EVERY)
    return [settings.steady_seconds + (start + 1.7) * settings.pace for start in starts]


@promise(
    "submits-go-on", source="review of the core, 6: one open transaction stalled every submission of an API process"
)
def submits_go_on(run: Run) -> Finding:
    """While a transaction that stays open holds one idempotency key, submits of all other jobs are answered at once.

    Exercised are those that were sent after a submit of that very key, and before its holder let go.
    """
    judged, slow = 0, list[dict[str, object]]()
    for window in run.windows:
        within = [
            call for call in run.submits if window.fault == "key_held" and window.covers(*[call.begun.time_ns] * 2)
        ]
        first_ns = min((call.begun.time_ns for call in within if _is_held(call)), default=math.inf)
        last_ns = (window.healed_ns or 0) - AT_ONCE_SECONDS * SECOND
        others = [call for call in within if first_ns < call.begun.time_ns < last_ns and not _is_held(call)]
        waited = [call for call in others if not _at_once(call)]
        judged += len(others)
        if len(waited) > len(others) / 4:
            slow.append({"held_at": window.onset_ns, "others": len(others), "waited": len(waited)})
    if not judged:
        return Finding("unknown", "no submit came in while another waited for a key that was held")
    return broken(
        slow,
        f"{len(slow)} open transactions stalled the submits of other jobs",
        f"{judged} submits were answered while another waited for a key that was held",
        judged=judged,
    )


def _is_held(call: Call) -> bool:
    return logical(call.begun).startswith(HELD)


def _at_once(call: Call) -> bool:
    return (
        call.type == "ok"
        and call.done is not None
        and call.done.time_ns - call.begun.time_ns <= AT_ONCE_SECONDS * SECOND
    )


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
