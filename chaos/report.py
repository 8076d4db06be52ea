"""Renders the report of a run: executes a notebook on its folder and makes one HTML page of it.

Everything is bounded by one deadline, the page is self-contained, and nothing reaches the network. It writes
`report.ipynb` and `report.html` into the run's folder and nowhere else.
"""

from __future__ import annotations

import html
import os
import sys
import time
from pathlib import Path
from string import Template
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillException, PapermillExecutionError

from chaos.errors import ChaosError, RunUnreadable
from chaos.record.runs import load_judgement, load_run

ROOT = Path(__file__).parent.parent
QUIET = "--IPKernelApp.log_level=40"
NOTEBOOK = ROOT / "notebooks" / "run_report.ipynb"
PAGE = ROOT / "notebooks" / "analysis" / "page.html"


class ReportFailed(ChaosError):
    """The report could not be made; the message names the run, the cell and the reason."""


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the interpreter that runs us, whatever kernels are installed on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """This Python, with this checkout on its path."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", QUIET],
            display_name="Python 3",
            language="python",
            env={"MPLBACKEND": "agg", "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )


def render(run: Path, *, timeout_seconds: float = 180) -> Path:
    """Write the run's report; returns the path of the HTML page.

    Raises `RunUnreadable` for a folder that is no run and `ReportFailed` when a cell fails or time runs out;
    then `report.ipynb` shows how far it got.
    """
    folder = Path(run).resolve()
    recorded = load_run(folder)
    if not recorded.history:
        raise RunUnreadable(f"{folder / 'history.jsonl'} is missing or empty: the run never began; start another")
    verdict = load_judgement(folder).verdict if (folder / "verdict.json").is_file() else "unknown"
    notebook = execute(folder, timeout_seconds)
    page = folder / "report.html"
    draft = page.with_suffix(".draft")
    title = f"{verdict}: {recorded.manifest.scenario}, seed {recorded.manifest.seed}"
    draft.write_text(to_html(notebook, title), encoding="utf-8")
    draft.replace(page)
    return page


def execute(folder: Path, timeout_seconds: float) -> Path:
    """Run the notebook with the folder as its parameter and working directory; returns the executed one."""
    if not NOTEBOOK.is_file():
        raise ReportFailed(f"{NOTEBOOK} is not there: the notebooks are not installed; run from a checkout")
    deadline = time.monotonic() + timeout_seconds
    output = folder / "report.ipynb"
    try:
        papermill.execute_notebook(
            NOTEBOOK,
            output,
            parameters={"run": "."},
            kernel_name="python3",
            language="python",
            cwd=folder,
            progress_bar=False,
            start_timeout=max(1, int(timeout_seconds)),
            kernel_manager_class=ThisInterpreter,
            timeout_func=lambda _cell: _seconds_left(deadline),
            shutdown_kernel="immediate",
        )
    except PapermillExecutionError as error:
        told = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
        raise ReportFailed(f"the report of {folder.name} failed in {told}; see {output}") from error
    except (CellTimeoutError, TimeoutError, DeadKernelError, PapermillException, RuntimeError) as error:
        if isinstance(error, CellTimeoutError | TimeoutError) or time.monotonic() >= deadline:
            told = f"the report of {folder.name} took longer than {timeout_seconds:g} s; pass a longer timeout"
            raise ReportFailed(told) from error
        raise ReportFailed(f"the kernel for the report of {folder.name} ended ({error}); see {output}") from error
    return output


def _seconds_left(deadline: float) -> int:
    """What the next cell may take, at least one second; raises when the time for all of them is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return max(1, int(left))


def to_html(notebook: Path, title: str) -> str:
    """The executed notebook as one page: outputs and prose, no code, images within, both colour schemes."""
    exporter: Any = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    document: Any = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    body, _ = exporter.from_notebook_node(document)
    page = Template(PAGE.read_text(encoding="utf-8"))
    return page.substitute(title=html.escape(title), body=body)
