"""The table of facts and the code that tells them, compared both ways; and docs/facts.md, made from the table."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from scheduler.facts import facts
from scheduler.facts.facts import FACTS
from tests.cluster import ROOT
from tests.facts.document import DOCUMENT, renewed

NAMES = {fact.name.upper() for fact in FACTS}
DERIVED = {"jobs", "first"}  # what `tell` knows by itself
OF_ONE_HANDLER = {"HANDLER_STARTED", "HANDLER_ENDED"}
ADAPTERS = {"PostgreSQL": "scheduler/storage/store.py", "Redis": "scheduler/storage/stream.py"}
# a handler's own log, the servers that know nothing of us, and how Python's logging is set up
MAY_LOG = ("scheduler/worker/executor.py", "scheduler/embedded/", "scheduler/facts/")


@dataclass(frozen=True, slots=True)
class Telling:
    """One call of `tell`: where, the facts it may tell, the fields, and the facts whose ears were looked at before."""

    path: str
    line: int
    facts: frozenset[str]
    fields: frozenset[str | None]  # None: `**mapping`
    guards: frozenset[str]


@cache
def modules() -> dict[str, ast.Module]:
    paths = sorted((ROOT / "scheduler").rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def fact_of(node: ast.AST) -> str | None:
    """The fact that `CLAIMED` or `facts.CLAIMED` names."""
    name = last_name(node)
    return name if name in NAMES else None


def last_name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def tellings(path: str, tree: ast.Module) -> Iterator[Telling]:
    values = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value
        for each in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for target in ast.walk(each)
        if isinstance(target, ast.Name)
    }

    def told(node: ast.expr, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """The names of facts in an expression, and in what its names were bound to in this file."""
        for each in ast.walk(node):
            if (name := fact_of(each)) is not None:
                yield name
            elif isinstance(each, ast.Name) and each.id in values and each.id not in seen:
                yield from told(values[each.id], seen | {each.id})

    def visit(node: ast.AST, guards: frozenset[str]) -> Iterator[Telling]:
        if isinstance(node, ast.If):
            ears = [each for each in ast.walk(node.test) if isinstance(each, ast.Attribute) and each.attr == "ears"]
            guards |= {name for each in ears if (name := fact_of(each.value)) is not None}
        if isinstance(node, ast.Call) and last_name(node.func) == "tell":
            fields = frozenset(keyword.arg for keyword in node.keywords)
            yield Telling(path, node.lineno, frozenset(told(node.args[0])), fields, guards)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, guards)

    yield from visit(tree, frozenset())


@cache
def all_tellings() -> list[Telling]:
    return [each for path, tree in modules().items() for each in tellings(path, tree)]


def test_a_telling_is_read_from_the_code_as_it_stands() -> None:
    code = """X = {1: FAILED}
if facts.HANDLER_ENDED.ears:
    tell(X[n], 2, a=1)
facts.tell(facts.UP if y else STOPPING, **z)
tell(w)
"""
    found = list(tellings("x.py", ast.parse(code)))
    none: frozenset[str] = frozenset()
    assert [(each.facts, each.fields, each.guards) for each in found] == [
        (frozenset({"FAILED"}), frozenset({"a"}), frozenset({"HANDLER_ENDED"})),
        (frozenset({"UP", "STOPPING"}), frozenset({None}), none),
        (none, none, none),
    ]


def test_every_fact_is_told_somewhere_and_whatever_is_told_is_a_fact() -> None:
    assert len(all_tellings()) > 50
    assert [each for each in all_tellings() if not each.facts] == []
    assert {name for each in all_tellings() for name in each.facts} == NAMES


def test_a_fact_is_told_with_the_fields_of_its_record_and_each_of_these_is_told() -> None:
    told: defaultdict[str, set[str | None]] = defaultdict(set)
    for each in all_tellings():
        for name in each.facts:
            known = set(getattr(facts, name).fields.split())
            assert each.fields <= known - DERIVED, f"{each.path}:{each.line} tells {name} with {each.fields - known}"
            told[name] |= each.fields
    assert {fact.name: set(fact.fields.split()) - DERIVED for fact in FACTS} == {
        name.lower(): fields for name, fields in told.items()
    }


def test_a_constant_is_named_as_its_fact_and_a_name_is_used_once() -> None:
    assert [fact for fact in FACTS if getattr(facts, fact.name.upper(), None) is not fact] == []
    assert len(NAMES) == len(FACTS)
    assert all(fact.unit and len(set(fact.fields.split())) == len(fact.fields.split()) for fact in FACTS)


def test_a_reply_of_a_store_is_told_by_its_adapter_and_by_nothing_else() -> None:
    for each in all_tellings():
        for reply in {getattr(facts, name).reply for name in each.facts} - {""}:
            assert each.path == ADAPTERS[reply], f"{each.path}:{each.line}"


def test_what_happens_to_a_single_handler_is_told_only_to_who_listens() -> None:
    told = [each for each in all_tellings() if each.facts & OF_ONE_HANDLER]
    assert {name for each in told for name in each.facts} == OF_ONE_HANDLER
    assert all(each.facts <= each.guards for each in told)


def test_nothing_is_logged_past_the_facts() -> None:
    imports = {
        path
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(name.name == "logging" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "logging")
    }
    assert imports
    assert [path for path in imports if not path.startswith(MAY_LOG)] == []


def test_the_counters_that_dashboards_read_keep_their_names() -> None:
    assert {fact.name for fact in FACTS if fact.counted} == {
        "submitted",
        "repeated",
        "refused",
        "published",
        "forwarded",
        "malformed",
        "claimed",
        "claim_refused",
        "unclaimed",
        "completed",
        "retried",
        "failed",
        "snoozed",
        "released",
        "body_lost",
        "lease_lost",
        "rescued",
        "reconciled",
        "promoted",
        "adopted",
        "key_unusable",
        "pruned",
        "store_errors",
        "turned_away",
        "audit_lost",
    }


def test_the_document_shows_the_table_as_it_is() -> None:
    assert DOCUMENT.read_text() == renewed(DOCUMENT.read_text()), "run `python -m tests.facts.document`"
    with pytest.raises(AssertionError, match="markers"):
        renewed("")
