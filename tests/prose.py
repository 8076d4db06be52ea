"""What the documents name: paths, Python names, settings, tests and commands, and whether each of them exists."""

from __future__ import annotations

import ast
import builtins
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

import chaos.__main__
import scheduler.__main__
from chaos.scenarios import SCENARIOS, UNLISTED
from scheduler.settings import OF_TESTS, PREFIX, Settings
from tests.shape import ROOT, Function, Source, sources

PACKAGES = ("scheduler", "chaos", "locustfiles", "notebooks", "tests")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?!application/|text/)\.?\w[\w.*-]*(/[\w.*-]+)*(/|\.(py|sql|lua|md|yaml|json|toml|ipynb))?(::\w+)?")
SUFFIXES = (".py", ".sql", ".lua", ".md", ".yaml", ".json", ".toml", ".ipynb", ".jsonl")
DOTTED = re.compile(r"@?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?")
CLASS = re.compile(r"([A-Z][a-z]+(?:[A-Z][a-z]+)+)")
COMMANDS: dict[str, Any] = {  # typer carries a click of its own, whose types are not click's
    "chaos": typer.main.get_command(chaos.__main__.app),
    "scheduler": typer.main.get_command(scheduler.__main__.app),
}
Definition = ast.ClassDef | Function | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom


@dataclass(frozen=True, slots=True)
class Document:
    """One Markdown file, by its path from the root."""

    path: str
    text: str

    def missing(self) -> Iterator[str]:
        """Everything it names that does not exist."""
        plain = FENCE.sub("", self.text)
        for link in re.findall(r"\]\(([^)\s]+)\)", plain):
            if "://" not in link and not self._leads(link):
                yield link
        for span in re.findall(r"`([^`\n]+)`", plain):
            yield from _missing_in_span(span)
        for language, block in FENCE.findall(self.text):
            if language == "sh":
                for line in block.replace("\\\n", " ").splitlines():
                    yield from missing_in_command(line)

    def _leads(self, link: str) -> bool:
        """Whether there is such a file, and such a heading in it."""
        path, _, anchor = link.partition("#")
        there = (ROOT / self.path).parent / path if path else ROOT / self.path
        if not anchor or not there.is_file():
            return there.exists()
        headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
        return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documents() -> list[Document]:
    """What a reader may open: README, CONTRIBUTING, and docs/ with the decision records."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [Document(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def _missing_in_span(span: str) -> Iterator[str]:
    word = span.split(maxsplit=1)[0]
    if word in (*COMMANDS, "make", "pytest", "python") and span != word:
        yield from missing_in_command(span)
    elif span.startswith(PREFIX):
        if not _is_setting(re.split(r"[^A-Z_]", span)[0]):
            yield span
    elif span.startswith("test_") and span.isidentifier():
        if span not in _tests():
            yield span
    elif PATH.fullmatch(span) and ("/" in span or span.endswith(SUFFIXES)):
        if not _path_exists(span):
            yield span
    elif (found := CLASS.fullmatch(span) or DOTTED.fullmatch(span)) and not _name_exists(found[1]):
        yield span


# -- commands


def missing_in_command(line: str) -> Iterator[str]:
    """What a command line names that is not there: the command itself, an option, a scenario, a target, a path."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["python", "-m"]:
        words = words[2:]
    program, rest = (words[0], words[1:]) if words else ("", [])
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        yield from (f"make {word}" for word in rest if word not in targets and "=" not in word)
    elif program == "pytest":
        yield from (word for word in rest if ("/" in word or word.endswith(".py")) and not _path_exists(word))
    elif program in COMMANDS:
        yield from _missing_in_ours(program, COMMANDS[program], rest)


def _missing_in_ours(path: str, command: Any, words: list[str]) -> Iterator[str]:
    while (known := getattr(command, "commands", None)) and words and not words[0].startswith(("-", "…")):
        for name in words[0].split("|"):
            if name not in known:
                yield f"{path} {name}"
                return
        command, path, words = known[name], f"{path} {words[0]}", words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    yield from (f"{path} {word}" for word in words if word.startswith("--") and word.partition("=")[0] not in options)
    if path == "chaos run" and words and re.fullmatch(r"[a-z-]+", words[0]) and words[0] not in SCENARIOS | UNLISTED:
        yield f"{path} {words[0]}"


# -- names


def _is_setting(name: str) -> bool:
    own = name.removeprefix(PREFIX)
    return own == "NAME" or own.lower() in Settings.model_fields or own.startswith(OF_TESTS) or not own


def _path_exists(text: str) -> bool:
    """From the root. Words in capitals stand for any name; what running makes need not be there."""
    path, _, test = text.partition("::")
    made = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")]
    if test and test not in _tests():
        return False
    if path.split("/")[0] in made or (ROOT / path).exists():
        return True
    if "/" not in path:
        return path in _quoted() or any(ROOT.glob(f"[!.]*/**/{path}"))
    return any(ROOT.glob(re.sub(r"(?<![A-Za-z])[A-Z_]{2,}(?![A-Za-z])", "*", path).strip("/")))


@cache
def _quoted() -> set[str]:
    """Every string in the two packages: also the names of the files that they write."""
    nodes = [node for file in sources("scheduler", "chaos") for node in ast.walk(file.tree)]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@cache
def _tests() -> set[str]:
    nodes = [node for file in sources("tests") for node in ast.walk(file.tree)]
    return {node.name for node in nodes if isinstance(node, Function) and node.name.startswith("test_")}


@cache
def _modules() -> dict[str, Source]:
    """Dotted name -> its source."""
    return {re.sub(r"(/__init__)?\.py$", "", file.path).replace("/", "."): file for file in sources(*PACKAGES)}


def _name_exists(name: str) -> bool:
    """Whether a dotted name leads somewhere in our code; names that begin with nothing of ours are not judged."""
    head, *rest = name.split(".")
    if head in PACKAGES:
        return _within_module(name)
    if head[0].isupper():
        classes = [found for file in _modules().values() for found in _definitions(file.tree, head)]
        known = [each for each in classes if isinstance(each, ast.ClassDef)] or classes
        return hasattr(builtins, head) or any(_leads(each, rest) for each in known)
    homes = [file for module, file in _modules().items() if module.rpartition(".")[2] == head]
    return not homes or any(_leads(file.tree, rest) for file in homes)


def _within_module(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if file := _modules().get(".".join(parts[:length])):
            return _leads(file.tree, parts[length:])
    return (ROOT / Path(*parts)).is_dir()


def _leads(node: ast.AST, rest: list[str]) -> bool:
    """Whether the names lead from this definition to another; what is imported or assigned is not followed."""
    if not rest or not isinstance(node, ast.Module | ast.ClassDef):
        return True
    return any(_leads(found, rest[1:]) for found in _definitions(node, rest[0]))


def _definitions(scope: ast.Module | ast.ClassDef, name: str) -> Iterator[Definition]:
    for node in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if node.name == name and node is not scope:
                yield node
            case ast.Assign(targets=[ast.Name(id) | ast.Attribute(attr=id)]) if id == name:
                yield node
            case ast.AnnAssign(target=ast.Name(id) | ast.Attribute(attr=id)) if id == name:
                yield node
            case ast.Import(names=names) | ast.ImportFrom(names=names) if name in {n.asname or n.name for n in names}:
                yield node
