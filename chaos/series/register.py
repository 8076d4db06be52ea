"""The claims register, docs/guarantees.yaml: what is promised, what attacks each promise, and what came of it last.

The sentences and the experiments are written by hand; every `result` is written by `chaos prove` from judged runs.
The tables in README.md and docs/guarantees.md are made from it, between markers, and a test compares them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from chaos.errors import UsageError
from chaos.judge import PROMISES
from chaos.judge.guards import GUARDS
from chaos.record.plan import Manifest
from chaos.record.runs import load_judgement, load_manifest
from chaos.record.verdict import Judgement, loss_bound
from chaos.scenarios import SCENARIOS
from chaos.series.campaign import Tried

ROOT = Path(__file__).parent.parent.parent
REGISTER = ROOT / "docs" / "guarantees.yaml"
BEGIN, END = "<!-- {}: made by `chaos prove`, not by hand -->", "<!-- end of {} -->"


class Result(msgspec.Struct, frozen=True):
    """What the last series found: sums over the runs whose scenario attacks the promise."""

    runs: int
    faults: int
    violations: int
    lost: int
    duplicated: dict[str, int]
    bound: float
    seeds: str
    commit: str | None = None  # where this is not that of the whole register


class Claim(msgspec.Struct, frozen=True):
    """`scenarios` may be patterns (`kill@*`); `tests` are node ids; `checks` judge; `controls` must be caught."""

    name: str
    sentence: str
    scenarios: list[str]
    checks: list[str]
    controls: list[str]
    tests: list[str] = []
    result: Result | None = None

    def is_attacked_by(self, scenario: str) -> bool:
        """Whether the scenario's name fits one of its patterns."""
        return any(fnmatchcase(scenario, pattern) for pattern in self.scenarios)


class ControlResult(msgspec.Struct, frozen=True):
    """One row of the table of controls; `harmless` ones must lose nothing instead of being caught."""

    name: str
    does: str
    scenario: str
    checks: list[str]
    result: str
    as_expected: bool
    harmless: bool = False


class Origin(msgspec.Struct, frozen=True):
    """What the results were measured on."""

    date: str
    commit: str | None
    pace: float
    versions: dict[str, str]
    cpus: int


class Register(msgspec.Struct, frozen=True):
    """The file as a value."""

    promises: list[Claim]
    controls: list[ControlResult] = []
    measured: Origin | None = None

    def only(self, names: Sequence[str]) -> Register:
        """The part that these promises make. Raises UsageError with the nearest known name."""
        known = {claim.name: claim for claim in self.promises}
        if unknown := [name for name in names if name not in known]:
            raise UsageError.unknown("promise", unknown[0], known, "docs/guarantees.yaml")
        return Register([known[name] for name in names], self.controls, self.measured)

    def attacks(self, scenario: str) -> bool:
        """Whether any promise is attacked by it."""
        return any(claim.is_attacked_by(scenario) for claim in self.promises)


def load(path: Path = REGISTER) -> Register:
    """Raises UsageError when the file is not what it should be."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=Register)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path}: {error}; run from a checkout, and see its head for the form") from error


def with_results(register: Register, folders: Iterable[str], tried: Sequence[Tried]) -> Register:
    """The register with the results of these run folders and controls; what was not run keeps its last result."""
    judged = [(load_manifest(folder), load_judgement(folder)) for folder in folders]
    promises = [_with_result(each, judged) for each in register.promises]
    rows = {row.name: row for row in register.controls} | {each.control.name: _row(each) for each in tried}
    return Register(promises, list(rows.values()), _origin([manifest for manifest, _ in judged]) or register.measured)


def with_part(register: Register, part: Register, folders: Iterable[str], tried: Sequence[Tried]) -> Register:
    """The register with the results of some of its promises; they keep the commit that they were measured on."""
    found = with_results(part, folders, tried)
    commit = found.measured.commit if found.measured else None
    renewed = {
        each.name: msgspec.structs.replace(
            each, result=each.result and msgspec.structs.replace(each.result, commit=commit)
        )
        for each in found.promises
    }
    return Register([renewed.get(each.name, each) for each in register.promises], found.controls, register.measured)


def _with_result(claim: Claim, judged: list[tuple[Manifest, Judgement]]) -> Claim:
    mine = [(manifest, judgement) for manifest, judgement in judged if claim.is_attacked_by(manifest.scenario)]
    if not mine:
        return claim
    duplicated: Counter[str] = Counter()
    violations = lost = 0
    for _, judgement in mine:
        for check in judgement.checks:
            violations += check.details.get("count", 0) if check.name in claim.checks else 0
            lost += len(check.details.get("lost", ())) if check.name == "at-least-once" else 0
            if check.name == "repetition":
                duplicated.update(check.details.get("causes", {}))
    duplicated.pop("retry", None)
    faults = sum(judgement.faults for _, judgement in mine)
    seeds = sorted({manifest.seed for manifest, _ in mine})
    return msgspec.structs.replace(
        claim,
        result=Result(
            len(mine),
            faults,
            violations,
            lost,
            dict(sorted(duplicated.items())),
            round(loss_bound(faults), 4),
            f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
        ),
    )


def _row(tried: Tried) -> ControlResult:
    control = tried.control
    return ControlResult(
        control.name,
        control.does,
        control.scenario,
        list(control.breaks),
        tried.result,
        tried.as_expected,
        tried.is_harmless,
    )


def _origin(manifests: list[Manifest]) -> Origin | None:
    if not manifests:
        return None
    last = max(manifests, key=lambda each: each.started_at)
    return Origin(
        datetime.now(UTC).date().isoformat(),
        last.commit,
        last.settings.pace,
        dict(sorted(last.versions.items())),
        int(last.machine.get("cpus", 0)),
    )


# --------------------------------------------------------------------------------------------------------- the tables


def promise_table(register: Register) -> str:
    """For the README: one line a promise."""
    lines = [
        "| promise | attacked by | faults | broken | lost | run again, and why | at most, 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {each.sentence} | {_attackers(each)} | {_figures(each.result)} |" for each in register.promises]
    return "\n".join([*lines, "", _caption(register)])


def _attackers(claim: Claim) -> str:
    named = [name for name in claim.scenarios if "*" not in name]
    commands = [f"`{name}`" for name in named] + ["`chaos points`"] * any("*" in name for name in claim.scenarios)
    return ", ".join(commands)


def _figures(result: Result | None) -> str:
    if result is None:
        return "not run | | | | "
    if not result.faults:
        return f"none, {result.runs} runs | {result.violations} | {result.lost} | 0 | "
    again = ", ".join(f"{count} {cause}" for cause, count in result.duplicated.items()) or "0"
    return f"{result.faults} | {result.violations} | {result.lost} | {again} | {result.bound:.1%} of faults"


def _caption(register: Register) -> str:
    found = register.measured
    if found is None:
        return "Not measured yet."
    caught = sum(row.as_expected for row in register.controls if not row.harmless)
    controls = sum(not row.harmless for row in register.controls)
    stores = f"PostgreSQL {found.versions.get('postgres', '?')}, {found.versions.get('redis', '?')}"
    return (
        f"Figures of {found.date}, commit {(found.commit or 'unknown')[:12]}, {stores}, {found.cpus} CPUs, lease"
        f" {5 * found.pace:g} s. *faults*: independent ones, over all runs that attack the promise; *broken*:"
        " violations found by the checks that judge it; *run again*: bodies repeated for a fault's sake, which"
        " at-least-once allows, by cause; *at most*: with 95 % confidence no larger share of such faults breaks the"
        f" promise (1 - 0.05^(1/faults)). {caught} of {controls} deliberately broken builds were caught by the same"
        " checks."
    )


def control_table(register: Register) -> str:
    """Every broken build with the checks that must catch it, and the faults that must do no harm."""
    lines = []
    for title, harmless in (("Broken builds, which must be caught", False), ("Faults that must lose nothing", True)):
        lines += [f"### {title}", "", "| build | what it does | scenario | checks | result |", "|---|---|---|---|---|"]
        lines += [
            f"| `{row.name}` | {row.does} | `{row.scenario}` | {', '.join(row.checks) or 'none'} | {row.result} |"
            for row in register.controls
            if row.harmless is harmless
        ]
        lines.append("")
    return "\n".join(lines).rstrip()


def evidence_table(register: Register) -> str:
    """For docs/guarantees.md: what attacks, what judges, and what proves that it can."""
    lines = ["| promise | runs, seeds | checks | controls | tests |", "|---|---|---|---|---|"]
    for each in register.promises:
        runs = f"{each.result.runs} runs, seeds {each.result.seeds}" if each.result else "not run"
        runs += f", commit {each.result.commit[:12]}" if each.result and each.result.commit else ""
        cells = (f"`{each.name}`", runs, _listed(each.checks), _listed(each.controls), _listed(each.tests))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def check_table(register: Register) -> str:
    """Every check with what it demands and where that comes from; guards are those that end a run as unknown."""
    own = [(each, f"`{name}`") for name, scenario in SCENARIOS.items() for each in scenario.promises]
    rows = [*((each, "all") for each in PROMISES), *own, *((each, "all, as a guard") for each in GUARDS)]
    lines = [f"| `{each.name}` | {each.sentence} | {scenarios} | {each.source} |" for each, scenarios in rows]
    return "\n".join(["| check | what it demands | scenarios | source |", "|---|---|---|---|", *lines])


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name.rpartition('::')[2]}`" for name in names) or "none"


TABLES = {
    ROOT / "README.md": {"promises": promise_table},
    ROOT / "docs" / "guarantees.md": {
        "promises": promise_table,
        "evidence": evidence_table,
        "checks": check_table,
        "controls": control_table,
    },
}


def rendered(text: str, register: Register, path: Path) -> str:
    """A document with its tables made anew. Raises UsageError when a marker is missing."""
    for name, make in TABLES[path].items():
        begin, end = BEGIN.format(name), END.format(name)
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise UsageError(f"{path.name} has no place for the table {name!r}; put {begin} and {end} where it belongs")
        text = f"{head}{begin}\n{make(register)}\n{end}{tail}"
    return text


def save(register: Register, path: Path = REGISTER) -> None:
    """Write the register and every table made from it."""
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    path.write_text(head + msgspec.yaml.encode(register).decode())
    for document in TABLES:
        document.write_text(rendered(document.read_text(), register, document))
