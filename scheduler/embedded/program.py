"""Finding a server's program: PATH first, then wheels. Runs nothing but `--version`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """An executable, its version (`18.6`), and where it came from: `PATH`, `wheel` or `build`."""

    path: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        """The first number of its version."""
        return int(self.version.partition(".")[0])


def candidates(names: Iterable[str], wheel: str, pattern: str) -> list[tuple[Path, str]]:
    """Programs of these names on PATH, then what matches `pattern` inside an installed wheel."""
    on_path = [(Path(found).resolve(), "PATH") for name in names if (found := shutil.which(name))]
    package = importlib.util.find_spec(wheel)
    inside = Path(package.origin).parent.glob(pattern) if package and package.origin else ()
    return on_path + [(path, "wheel") for path in inside]


def inspect(path: Path, origin: str, *, oldest: int, beside: str | None = None) -> Program | str:
    """The program behind a candidate, or the reason why it is of no use."""
    if beside and not path.with_name(beside).exists():
        return f"{path} has no {beside} beside it"
    command: list[str | Path] = [path, "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not run: {error}"
    if not (found := re.search(r"(?:v=|\) )(\d+(?:\.\d+)*)", answer)):
        return f"{path} --version says {answer.strip()[:80]!r}"
    if int(found[1].partition(".")[0]) < oldest:
        return f"{path} is version {found[1]}, {oldest} or later is needed"
    return Program(path, found[1], origin)
