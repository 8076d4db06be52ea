"""What `scheduler.testing` needs, and who needs it."""

from __future__ import annotations

import subprocess
import sys


def test_the_helpers_do_not_need_pytest_and_the_scheduler_does_not_need_the_helpers() -> None:
    look = (
        "import sys, scheduler.__main__, scheduler.runtime\n"
        "assert 'scheduler.testing' not in sys.modules\n"
        "import scheduler.testing\n"
        "assert 'pytest' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)
