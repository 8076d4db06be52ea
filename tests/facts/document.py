"""The table of docs/facts.md, made from the facts: `python -m tests.facts.document` writes it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from scheduler.facts.facts import FACTS, Fact
from scheduler.testing.points import POINTS
from tests.cluster import ROOT

DOCUMENT = ROOT / "docs/facts.md"
TABLE = re.compile(r"(<!-- facts: .*? -->\n).*(<!-- end of facts -->)", re.DOTALL)


def rows() -> Iterator[str]:
    yield "| fact | its units | fields | level | heard by |"
    yield "|---|---|---|---|---|"
    for fact in FACTS:
        fields = ", ".join(f"`{name}`" for name in fact.fields.split())
        level = logging.getLevelName(fact.level) if fact.level else ""
        yield f"| `{fact.name}` | {fact.unit} | {fields} | {level} | {', '.join(heard_by(fact))} |"


def heard_by(fact: Fact) -> Iterator[str]:
    if fact.level:
        yield "log"
    if fact.counted:
        yield f"counter `scheduler_{fact.name}_total`"
    for point in POINTS.values():
        if point.fact is fact:
            yield f"crash point `{point.name}`"


def renewed(text: str) -> str:
    """The document with its table made anew."""
    table = "\n".join(rows())
    text, found = TABLE.subn(rf"\g<1>{table}\n\g<2>", text)
    assert found == 1, "the markers of the table are not there, or more than once"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
