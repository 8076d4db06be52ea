"""Breadth-first search of every reachable state, then of what the fair steps can still reach from each.

A run is fair when no fair step that is possible again and again is put off for ever. It then ends in a set of states
that fair steps cannot leave. So a promise of the form *in the end, and from then on* holds exactly if from every state
fair steps can reach a state where it holds and which they cannot lead out of.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from chaos.model.protocol import GOALS, Protocol, unsafe
from chaos.model.state import Faults, State, canonical, start
from chaos.model.steps import Label


class Bounds(NamedTuple):
    """How much is explored: the faults that may happen, and how many jobs, workers and attempts there are."""

    faults: Faults
    jobs: int = 1
    workers: int = 2
    max_attempts: int = 2


class Result(NamedTuple):
    """What a search found."""

    states: int
    violated: str  # the promise that is broken; empty: all hold
    trace: tuple[str, ...]  # the shortest way there, a step a line


class Graph:
    """All states up to the first unsafe one, how each was found, and the fair steps backwards."""

    def __init__(self, protocol: Protocol, bounds: Bounds) -> None:
        first = canonical(start(bounds.jobs, bounds.workers, bounds.faults))
        self.states, self._at = [first], {first: 0}
        self.parents, self.unsafe = array("l", [-1]), ""
        self.edges_from, self.edges_to = array("l"), array("l")
        self._max_attempts = bounds.max_attempts
        at = 0
        while at < len(self.states) and self._expand(protocol, at):
            at += 1

    def _expand(self, protocol: Protocol, at: int) -> bool:
        """Take every step from a state. False as soon as one leads to an unsafe state, which then is the last."""
        for fair, _, following in protocol.steps(self.states[at]):
            before = len(self.states)
            to = self._place(canonical(following), at)
            if fair and to != at:
                self.edges_from.append(at)
                self.edges_to.append(to)
            if to == before:
                self.unsafe = unsafe(self.states[to], self._max_attempts)
                if self.unsafe:
                    return False
        return True

    def _place(self, state: State, parent: int) -> int:
        at = self._at.setdefault(state, len(self.states))
        if at == len(self.states):
            self.states.append(state)
            self.parents.append(parent)
        return at

    def doomed(self, goal: Callable[[State], bool]) -> int | None:
        """The nearest state from which fair steps can not reach the goal for good."""
        backwards: list[list[int]] = [[] for _ in self.states]
        for a, b in zip(self.edges_from, self.edges_to, strict=True):
            backwards[b].append(a)
        missed = [at for at, state in enumerate(self.states) if not goal(state)]
        leaving = _closure(backwards, missed)
        saved = _closure(backwards, [at for at in range(len(self.states)) if not leaving[at]])
        return next((at for at in range(len(self.states)) if not saved[at]), None)

    def path(self, at: int) -> list[State]:
        """The states from the start to this one, by the shortest way."""
        path = []
        while at >= 0:
            path.append(self.states[at])
            at = self.parents[at]
        return path[::-1]


def _closure(backwards: list[list[int]], seeds: list[int]) -> bytearray:
    """Marks every state from which fair steps can lead to one of the seeds."""
    found, todo = bytearray(len(backwards)), list(seeds)
    for at in seeds:
        found[at] = 1
    while todo:
        for before in backwards[todo.pop()]:
            if not found[before]:
                found[before] = 1
                todo.append(before)
    return found


def explore(protocol: Protocol, bounds: Bounds) -> Result:
    """Every state within the bounds. The shortest trace to a broken promise, if one is broken."""
    with _no_collector():
        return _judge(protocol, Graph(protocol, bounds))


def _judge(protocol: Protocol, graph: Graph) -> Result:
    if graph.unsafe:
        trace = narrate(protocol, graph.path(len(graph.states) - 1))
        return Result(len(graph.states), graph.unsafe, trace)
    for promise, goal in GOALS.items():
        if (at := graph.doomed(goal)) is not None:
            return Result(len(graph.states), promise, narrate(protocol, graph.path(at)))
    return Result(len(graph.states), "", ())


@contextmanager
def _no_collector() -> Iterator[None]:
    """Nothing here is cyclic, and to look through a million tuples again and again takes as long as to make them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def narrate(protocol: Protocol, path: list[State]) -> tuple[str, ...]:
    """The steps of a path in words. It is walked again uncanonised, so that a worker keeps its number."""
    state, lines = path[0], []
    for target in path[1:]:
        label, state = next((label, to) for _, label, to in protocol.steps(state) if canonical(to) == target)
        lines.append(_words(label, len(path[0].jobs)))
    return tuple(lines)


def _words(label: Label, jobs: int) -> str:
    text, worker, job = label
    return text.format(w=f"worker {worker + 1}", j=f"job {job + 1}" if jobs > 1 else "the job")
