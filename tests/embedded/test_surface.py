"""That `scheduler.embedded` relies on nothing of the scheduler."""

from __future__ import annotations

import ast
from pathlib import Path

import scheduler.embedded


def test_it_imports_nothing_of_the_scheduler_but_itself() -> None:
    files = list(Path(scheduler.embedded.__file__).parent.glob("*.py"))
    assert len(files) > 5
    found = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in found if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.startswith("scheduler") and ".embedded" not in name} == set()
