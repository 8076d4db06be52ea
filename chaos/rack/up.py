"""`chaos up`: the whole stack at its usual addresses until Ctrl-C, with Locust's page and, if wanted, JupyterLab.

Data stays in the data folder from one start to the next. Whatever dies is started again, ever more slowly while it
keeps dying. Nothing is broken here on purpose: that is left to whoever plays with Toxiproxy and `kill`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from rich.console import Console
from rich.table import Table

from chaos.errors import StackFailed, UsageError
from chaos.rack.python import ROOT, python
from chaos.rack.servers import Servers
from chaos.rack.stack import Shape, Stack
from chaos.record.aim import API, LINKS
from chaos.record.plan import Plan, Settings
from chaos.record.runs import Folder
from chaos.targets.ours.processes import callers
from scheduler.embedded import ChildFailed, Crew, Launch, is_free

HELPER_SECONDS = 60.0  # what Locust or JupyterLab may need to serve its page; not measured
POLL_SECONDS = 0.25  # between two looks at the children; not measured


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, on loopback."""

    api: int = 3000
    toxiproxy: int = 8474
    locust: int = 8089
    lab: int = 8888

    def check(self, *, lab: bool) -> None:
        """Raises UsageError that names each port that is taken, and the option that chooses another."""
        wanted = {"api": self.api, "toxiproxy": self.toxiproxy, "locust": self.locust}
        wanted |= {"lab": self.lab} if lab else {}
        taken = {name: port for name, port in wanted.items() if not is_free(port)}
        if taken:
            told = ", ".join(f"{port} ({name})" for name, port in taken.items())
            options = ", ".join(f"--{name}-port" for name in taken)
            raise UsageError(f"taken by another program: port {told}; stop what listens there, or pass {options}")


def keep_up(workers: int, ports: Ports, data_dir: Path, *, lab: bool, console: Console) -> None:
    """Start everything, print the addresses, tend the processes until Ctrl-C or SIGTERM."""
    ports.check(lab=lab)
    with ExitStack() as ended:
        folder = Folder(Path(ended.enter_context(TemporaryDirectory(prefix="chaos-up-"))))
        folder.logs.mkdir()
        ended.callback(console.print, "stopped")
        plan = Plan("up", 0, Settings(workers=workers))
        shape = Shape(api_port=ports.api, witnessed=False, variables=_variables(os.environ))
        try:
            with console.status("starting stores, Toxiproxy, API and workers"):
                servers = ended.enter_context(Servers(data_dir, toxiproxy_port=ports.toxiproxy))
                stack = ended.enter_context(Stack(plan, folder, servers, shape))
            with console.status("starting Locust" + (" and JupyterLab" if lab else "")):
                helpers = ended.enter_context(Crew())
                urls = _start_helpers(helpers, folder, stack, ports, lab=lab)
            console.print(_addresses(stack, ports, data_dir, urls))
            _tend(stack, helpers, console)
        except KeyboardInterrupt:
            console.print("stopping; Locust first, then API and workers, then the stores")
        except ChildFailed as error:
            raise StackFailed(str(error)) from error


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's own settings of the queue, except where the stack decides; handlers may lie here."""
    path = [str(ROOT), str(Path.cwd()), *filter(None, [environment.get("PYTHONPATH")])]
    return callers(environment) | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def _start_helpers(crew: Crew, folder: Folder, stack: Stack, ports: Ports, *, lab: bool) -> dict[str, str]:
    """Locust and JupyterLab; returns their addresses, once they answer. Raises ChildFailed."""
    urls = {crew.start(_locust(folder, stack, ports)).name: f"http://127.0.0.1:{ports.locust}"}
    if lab:
        token = secrets.token_hex(16)
        jupyter = crew.start(_jupyter(folder, ports, token))
        urls[jupyter.name] = f"http://127.0.0.1:{ports.lab}/lab?token={token}"
    for name, url in urls.items():
        crew.until(partial(_answers, url), HELPER_SECONDS, crew.children[name], f"{name} did not serve {url}")
    return urls


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def _tend(stack: Stack, helpers: Crew, console: Console) -> None:
    """Start again what dies of API and workers, for ever. Raises ChildFailed when a helper ends."""
    while True:
        for child in stack.tend():
            told = f"{child.name} ended with {child.exit_code}; started again in {child.wait_seconds:.1f} s"
            console.print(told, style="yellow", highlight=False)
        helpers.check()
        time.sleep(POLL_SECONDS)


def _locust(folder: Folder, stack: Stack, ports: Ports) -> Launch:
    profile = str(ROOT / "locustfiles" / "burst.py")
    page = ["--web-host", "127.0.0.1", "--web-port", str(ports.locust)]
    options = ["-f", profile, "--host", stack.api_url, "-u", "1000", "-r", "1000", *page]
    return python(["locust", *options], {}, folder.logs / "locust.log")


def _jupyter(folder: Folder, ports: Ports, token: str) -> Launch:
    server = [f"--ServerApp.root_dir={ROOT}", f"--IdentityProvider.token={token}", "--allow-root"]
    place = ["--no-browser", "--ip", "127.0.0.1", "--port", str(ports.lab), "--ServerApp.port_retries=0"]
    return python(["jupyterlab", *place, *server], {}, folder.logs / "jupyter.log")


def _addresses(stack: Stack, ports: Ports, data_dir: Path, helpers: dict[str, str]) -> Table:
    table = Table(title="up; Ctrl-C stops everything", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("API, documentation", f"{stack.api_url}/docs")
    table.add_row("Locust", helpers["locust"])
    table.add_row("Toxiproxy", f"http://127.0.0.1:{ports.toxiproxy}/proxies ({', '.join(LINKS)})")
    if "jupyter" in helpers:
        table.add_row("JupyterLab", helpers["jupyter"])
    stores = stack.servers.stores
    table.add_row("PostgreSQL, Redis", f"ports {stores.postgres.port}, {stores.redis.port}; passwords beside the data")
    table.add_row("data", str(data_dir.absolute()))
    pids = ", ".join(f"{name} {stack.process(name).pid}" for name in (API, *stack.workers))
    table.add_row("processes", f"{pids}; what is killed is started again")
    return table
