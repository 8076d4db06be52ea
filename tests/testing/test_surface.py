"""What users may rely on in `scheduler.testing`."""

from __future__ import annotations

import subprocess
import sys

import scheduler.testing


def test_the_public_names_are_these() -> None:
    assert sorted(scheduler.testing.__all__) == [
        "AttemptOutcome",
        "HANDLER_POINTS",
        "POINTS",
        "Point",
        "Stack",
        "StoreUrls",
        "eventually",
        "run_inline",
        "run_through_crash",
        "run_to_end",
        "trace",
    ]
    assert all(hasattr(scheduler.testing, name) for name in scheduler.testing.__all__)


def test_the_helpers_do_not_need_pytest_and_the_scheduler_does_not_need_the_helpers() -> None:
    look = (
        "import sys, scheduler.__main__, scheduler.runtime\n"
        "assert 'scheduler.testing' not in sys.modules\n"
        "import scheduler.testing\n"
        "assert 'pytest' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)
