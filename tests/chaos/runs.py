"""Run folders as a judged run leaves them, with the figures that a test wants."""

from __future__ import annotations

from pathlib import Path

from chaos.record.plan import Manifest
from chaos.record.runs import Folder
from chaos.record.verdict import Check, Judgement


def judged_run(
    path: Path,
    scenario: str,
    *,
    seed: int,
    faults: int,
    causes: dict[str, int],
    unfinished: int = 0,
    lost: int = 0,
) -> Path:
    """Write manifest and verdict only: what a register reads."""
    path.mkdir()
    folder = Folder(path)
    folder.write(folder.manifest, Manifest(run=path.name, scenario=scenario, seed=seed, started_at=f"2026-01-0{seed}"))
    checks = [
        Check("terminal", "invalid" if unfinished else "valid", "", {"count": unfinished}),
        Check("repetition", "valid", "", {"count": 0, "causes": causes}),
        Check("at-least-once", "invalid" if lost else "valid", "", {"lost": [f"job-{n}" for n in range(lost)]}),
    ]
    folder.write(folder.verdict, Judgement("invalid" if lost else "valid", checks, faults, 100, ""))
    return path
