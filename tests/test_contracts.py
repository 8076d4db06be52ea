"""The allow-list of the scheduler's public modules can be broken, and is by a module that nobody has listed."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from grimp import ImportGraph

from tests.cluster import ROOT
from tests.contracts import AllowList

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
HARNESS, MODEL = ({k: v for k, v in each.items() if k != "type"} for each in CONTRACTS if each["type"] == "allow_list")


def is_kept(options: dict[str, Any], importer: str, imported: str) -> bool:
    graph = ImportGraph()
    for module in ("chaos", "chaos.model", "chaos.controls", "scheduler", "scheduler.jobs"):
        graph.add_module(module)
    graph.add_import(importer=importer, imported=imported, line_number=7, line_contents="import")
    contract = AllowList(name=options["name"], session_options={}, contract_options=options)
    check = contract.check(graph, verbose=False)
    assert check.kept or check.metadata["found"] == [{"importer": importer, "imported": imported, "lines": "l. 7"}]
    return check.kept


@pytest.mark.parametrize(
    ("importer", "imported", "kept"),
    [
        ("chaos.rack.stack", "scheduler.embedded", True),
        ("chaos.rack.stack", "scheduler.embedded.process", False),
        ("chaos.rack.stack", "scheduler.brand_new", False),
        ("chaos.experiment", "scheduler.runtime", False),
        ("chaos.experiment", "scheduler", True),
        ("chaos.experiment", "schedulers", True),
        ("notebooks.analysis.frames", "scheduler.jobs.job", False),
        ("chaos.controls.settling", "scheduler.storage.store", True),
        ("chaos.model.steps", "scheduler.jobs.lifecycle", True),
    ],
)
def test_the_harness_may_import_what_is_listed_and_nothing_else(importer: str, imported: str, *, kept: bool) -> None:
    assert is_kept(HARNESS, importer, imported) is kept


@pytest.mark.parametrize(
    ("imported", "kept"), [("scheduler.jobs.lifecycle", True), ("scheduler.storage.store", False), ("scheduler", False)]
)
def test_the_model_may_import_the_rules_and_nothing_that_acts(imported: str, *, kept: bool) -> None:
    assert is_kept(MODEL, "chaos.model.steps", imported) is kept
