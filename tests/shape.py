"""What shape a source file may have: each rule takes one file and says what breaks it. Imports nothing it reads."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LINES, MAX_FUNCTION_LINES, MAX_FILES = 400, 45, 12
MANNERED = re.compile(r"\b(in vain|by lot|(has|have|had) done (its|their) duty)\b", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Opened = ast.Module | ast.ClassDef | Function  # what may open with a docstring
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Source:
    """One file, by its path from the root; `tree` is for Python alone."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


Rule = Callable[[Source], Iterator[str]]


def sources(*roots: str, suffix: str = ".py") -> list[Source]:
    """The files with that suffix below these folders (or these files themselves), in order."""
    found: set[Path] = set()
    for root in roots:
        found.update([ROOT / root] if root.endswith(suffix) else (ROOT / root).rglob(f"*{suffix}"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(found)]


def breaches(rule: Rule, files: list[Source]) -> dict[str, list[str]]:
    """Path -> what breaks the rule there, of the files that break it."""
    return {file.path: told for file in files if (told := list(rule(file)))}


def code_lines(file: Source) -> int:
    """How many lines hold code, as `cloc` counts them: neither blank nor comment nor docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(file.text).readline)
    code = {n for token in tokens if token.type not in NO_CODE for n in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(file.tree):
        if isinstance(node, Opened) and ast.get_docstring(node) is not None:
            code.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(bool(line.strip()) for n, line in enumerate(file.text.splitlines(), 1) if n in code)


def too_long(file: Source) -> Iterator[str]:
    """More lines than a file may have."""
    if (lines := file.text.count("\n")) > MAX_LINES:
        yield f"{lines} lines, {MAX_LINES} at most"


def long_functions(file: Source) -> Iterator[str]:
    """Functions with more lines than one may have, from `def` to the end."""
    for node in ast.walk(file.tree):
        if isinstance(node, Function) and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES:
            yield f"{node.name} has {lines} lines, {MAX_FUNCTION_LINES} at most"


def unopened(file: Source) -> Iterator[str]:
    """A module without a docstring."""
    if not ast.get_docstring(file.tree):
        yield "opens without a docstring"


def mannered(file: Source) -> Iterator[str]:
    """Words that a reader may stumble over whose first language is another."""
    for number, line in enumerate(file.text.splitlines(), 1):
        if found := MANNERED.search(line):
            yield f"line {number}: {found[0]!r}"


# -- the environment


def environment_at_import(file: Source) -> Iterator[str]:
    """Reads of the environment that importing the file carries out: what it finds then holds for good."""
    for node in _run_at_import(file.tree):
        match node:
            case ast.Attribute(ast.Name("os"), "environ" | "getenv" as name):
                yield f"line {node.lineno}: os.{name}"
            case ast.Call(ast.Attribute(ast.Name("settings"), "load")):
                yield f"line {node.lineno}: settings.load()"
            case ast.ImportFrom("os", names) if {"environ", "getenv"} & {each.name for each in names}:
                yield f"line {node.lineno}: write os.environ where it is read"


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """All that runs when a module is imported: not the bodies of functions, nor what a command line alone runs."""
    if isinstance(node, ast.Lambda) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
        return
    yield node
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, Function):
        children = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
    for child in children:
        yield from _run_at_import(child)


# -- docstrings


class Documented:
    """The rule that public classes and functions have a docstring. A method may rely on that of the base class it
    overrides or of the protocol it fulfils, a function on the sentence that its decorator is given.
    """

    def __init__(self, files: list[Source]) -> None:
        self._classes: defaultdict[str, list[ast.ClassDef]] = defaultdict(list)
        self._promised: set[str] = set()  # what a typing.Protocol says of its methods holds for whoever fulfils it
        for file in files:
            has_protocols = re.search(r"^from typing import .*\bProtocol\b", file.text, re.MULTILINE)
            for node in (node for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef)):
                self._classes[node.name].append(node)
                if has_protocols and "Protocol" in _bases(node):
                    self._promised |= _documented(node)

    def __call__(self, file: Source) -> Iterator[str]:
        yield from self._within(file.tree, "")

    def _within(self, scope: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for node in scope.body:
            if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
                continue
            told = ast.get_docstring(node) or any(map(_has_sentence, node.decorator_list))
            if not told and not (isinstance(scope, ast.ClassDef) and self._inherits(scope, node.name)):
                yield f"line {node.lineno}: {prefix}{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from self._within(node, f"{prefix}{node.name}.")

    def _inherits(self, owner: ast.ClassDef, method: str) -> bool:
        bases = [each for name in _bases(owner) for each in self._classes[name] if each is not owner]
        return method in self._promised or any(
            method in _documented(each) or self._inherits(each, method) for each in bases
        )


def _bases(node: ast.ClassDef) -> list[str]:
    return [_last_name(base) for base in node.bases]


def _documented(node: ast.ClassDef) -> set[str]:
    return {each.name for each in node.body if isinstance(each, Function) and ast.get_docstring(each)}


def _has_sentence(decorator: ast.expr) -> bool:
    """Whether it is called with words, as `@control("no-fence", "settles without …")`; an overload needs none."""
    if _last_name(decorator) == "overload":
        return True
    given = decorator.args if isinstance(decorator, ast.Call) else []
    return any(isinstance(each, ast.Constant) and " " in str(each.value) for each in given)


# -- names of queries and scripts


def names_asked_of(table: str, files: list[Source]) -> set[str]:
    """The literal names that these files look up in `table`: as `table["name"]`, or by a function that indexes it
    with one of its parameters, or hands that on to such a one, called with a literal there.
    """
    nodes = [node for file in files for node in ast.walk(file.tree)]
    lookups = [node for node in nodes if isinstance(node, ast.Subscript) and _last_name(node.value) == table]
    names = {node.slice.value for node in lookups if isinstance(node.slice, ast.Constant)}
    functions = [node for node in nodes if isinstance(node, Function)]
    doors = {node.name: place for node in functions if (place := _index(node, table)) >= 0}
    while more := {f.name: place for f in functions if f.name not in doors and (place := _handed_on(f, doors)) >= 0}:
        doors |= more
    for node in nodes:
        if isinstance(node, ast.Call) and (given := _given(node, doors)):
            names |= {each.value for each in ast.walk(given) if isinstance(each, ast.Constant)}
    return {name for name in names if isinstance(name, str)}


def _given(call: ast.Call, doors: dict[str, int]) -> ast.expr | None:
    """What a call of one of these functions looks up."""
    place = doors.get(_last_name(call.func), len(call.args))
    return call.args[place] if place < len(call.args) else None


def _parameters(function: Function) -> list[str]:
    return [each.arg for each in (*function.args.posonlyargs, *function.args.args) if each.arg != "self"]


def _handed_on(function: Function, doors: dict[str, int]) -> int:
    """Which of its arguments a function hands on to one of these to look up; -1 when none."""
    parameters = _parameters(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(given := _given(node, doors), ast.Name) and given.id in parameters:
            return parameters.index(given.id)
    return -1


def _last_name(node: ast.AST) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _index(function: Function, table: str) -> int:
    """Which of its arguments (without self) a function looks up in `table`; -1 when none."""
    parameters = _parameters(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and _last_name(node.value) == table and _last_name(node.slice) in parameters:
            return parameters.index(_last_name(node.slice))
    return -1
