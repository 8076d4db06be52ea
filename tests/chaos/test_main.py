"""How a command ends when the harness itself is at fault."""

from __future__ import annotations

import signal

import pytest

from chaos import __main__ as command
from chaos.errors import ChaosError, UsageError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("no such run"), 2, "chaos: no such run"),
        (ChaosError("no server"), 4, "chaos: no server"),
        (KeyError("id"), 4, "KeyError: 'id'"),
    ],
)
def test_no_failure_of_the_harness_passes_for_a_broken_promise(
    error: Exception, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(command, "app", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == code
    assert told in capsys.readouterr().err
