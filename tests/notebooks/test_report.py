"""The report as its reader gets it: the notebook runs on a folder, the page stands alone, failures tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from chaos import report
from chaos.errors import RunUnreadable
from tests.notebooks import synthetic

SOURCE = report.NOTEBOOK.with_suffix(".py")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = synthetic.write(tmp_path_factory.mktemp("runs") / "lossy", lost=3)
    return report.render(folder).read_text(encoding="utf-8")


def test_the_page_says_the_verdict_in_one_sentence_before_anything_else(page: str) -> None:
    headline = (
        '<p class="verdict">invalid</p><p class="sentence">Broken: at-least-once: 3 of 1000 accepted jobs were lost'
    )
    assert headline in page
    assert page.index("Did every promise hold?") < page.index(headline) < page.index("<h2>")
    assert "<title>invalid: synthetic, seed 7</title>" in page


def test_the_page_shows_every_chart_with_words_for_it(page: str) -> None:
    images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', page) or re.findall(
        r'<img src="data:image/png;base64,[^"]*" alt="([^"]*)"', page
    )
    assert len(images) == 9
    assert all(len(words) > 40 for words in images)


def test_the_page_stands_alone_and_shows_no_code(page: str) -> None:
    without_images = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"<script|https?://|<link|@import|url\(", without_images)
    assert "display(" not in without_images
    assert "prefers-color-scheme: dark" in page


def test_the_page_says_how_to_repeat_the_run(page: str) -> None:
    assert "chaos run synthetic --seed 7" in page


def test_a_cell_that_fails_is_named_and_the_folder_keeps_no_page(folder: Path) -> None:
    path = folder / "verdict.json"
    path.write_text(path.read_text().replace('"verdict": "valid"', '"verdict": "invalid"', 1))
    with pytest.raises(report.ReportFailed, match="AssertionError: the verdict is invalid"):
        report.render(folder)
    assert not (folder / "report.html").exists()


def test_a_report_that_takes_too_long_is_given_up(folder: Path) -> None:
    with pytest.raises(report.ReportFailed, match="longer than 1 s"):
        report.render(folder, timeout_seconds=1)


def test_a_folder_that_is_no_run_starts_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(RunUnreadable):
        report.render(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_and_its_text_are_in_step() -> None:
    text, notebook = jupytext.read(SOURCE), nbformat.read(report.NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert _cells(text) == _cells(notebook), f"run: jupytext --to ipynb --update {SOURCE.name}"


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook: Any = nbformat.read(report.NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 12
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.source for cell in code if "parameters" in cell.metadata.get("tags", [])] == ['run = "../runs/latest"']


def _cells(notebook: Any) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
