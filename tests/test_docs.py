"""The documents name only what exists: paths, Python names, settings, tests and commands."""

from __future__ import annotations

import re

import pytest

from tests.prose import Document, documents
from tests.shape import ROOT

# Named by a document and not there yet; what has come is taken off.
YET: set[str] = set()


def test_everything_that_the_documents_name_exists() -> None:
    missing = {name: document.path for document in documents() for name in document.missing()}
    new = [f"{path}: {name}" for name, path in missing.items() if name not in YET]
    assert not new, "named, but not there:\n" + "\n".join(new)
    assert missing.keys() >= YET, f"there by now, take them off YET: {sorted(YET - missing.keys())}"


@pytest.mark.parametrize(
    "text",
    [
        "[a](nowhere.md)",
        "[a](docs/architecture.md#nowhere)",
        "[a](#nowhere)",
        "`scheduler/nowhere.py`",
        "`scheduler/n*where/`",
        "`nowhere.sql`",
        "`tests/test_docs.py::test_nothing`",
        "`test_nothing`",
        "`scheduler.jobs.lifecycle.NOTHING`",
        "`scheduler.nowhere`",
        "`Outcome.nothing()`",
        "`NoSuchClass`",
        "`lifecycle.NOTHING`",
        "`SCHEDULER_NOTHING`",
        "`make nothing`",
        "`chaos nothing`",
        "`chaos run nothing`",
        "`chaos run calm --nothing`",
        "`scheduler dlq nothing`",
        "`pytest tests/nowhere`",
        "```sh\nmake nothing  # at all\n```\n",
    ],
)
def test_a_name_that_leads_nowhere_is_found(text: str) -> None:
    assert list(Document("README.md", text).missing())


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/architecture.md#processes) [b](https://example.com/nowhere.md)",
        "`scheduler/jobs/` `scheduler/jobs/lifecycle.py` `docs/decisions/NNNN-*.md` `runs/latest` `lifecycle.py`",
        "`tests/test_docs.py::test_a_name_that_leads_nowhere_is_found` `manifest.json` `application/json`",
        "`scheduler.jobs.lifecycle.RULES` `Outcome.complete(job)` `scheduler.testing` `lifecycle.RULES` `ctx.log`",
        "`StoreUnavailable` `ValueError` `SCHEDULER_PORT=3000` `SCHEDULER_TEST_REDIS_URL` `EMAIL` `GET /jobs/{id}`",
        "`make test` `chaos run calm --seed 7` `chaos replay RUN` `scheduler dlq list|purge` `pytest tests/jobs -q`",
        "```sh\nchaos list  # `nothing` here\n```\n",
    ],
)
def test_a_name_that_exists_is_not_complained_of(text: str) -> None:
    assert not list(Document("README.md", text).missing())


def test_the_tunables_have_the_values_that_the_table_says() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| `([^`]+)` \| `([^`]+)` \|", (ROOT / "docs/tunables.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 20
    wrong = [f"{path}: {name} is not {value}" for name, value, path in rows if not _is_set(name, value, path)]
    assert not wrong, "\n".join(wrong)


def _is_set(name: str, value: str, path: str) -> bool:
    """As `name = value`, or as `name(value)`."""
    pattern = rf"(?<![\w.]){re.escape(name)}( = |\(){re.escape(value)}(?!\w)"
    return re.search(pattern, (ROOT / path).read_text()) is not None
