"""Plays faults on a world: each call recorded as a pair, every fault healed whatever else fails."""

from __future__ import annotations

from chaos.errors import ChaosError, FaultFailed
from chaos.faults.fault import Fault, World
from chaos.record.history import NEMESIS
from chaos.record.recorder import Recorder


class Nemesis:
    """Plays faults on a world, each call recorded as a pair: onset and healing lie in known intervals."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world, self._recorder = world, recorder
        self._active: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        """Active from the first byte sent on: half an injection is healed like a whole one."""
        fault.await_moment(self._world)
        self._active.append(fault)
        with self._recorder.paired(NEMESIS, fault.name, {"target": str(fault.target)}) as added:
            added.update(fault.inject(self._world))

    def heal(self, fault: Fault) -> None:
        """Healing what is not active is no error."""
        if fault not in self._active:
            return
        value = {"fault": fault.name, "target": str(fault.target)}
        with self._recorder.paired(NEMESIS, "heal", value) as added:
            added.update(fault.heal(self._world))
        self._active.remove(fault)

    def heal_all(self) -> None:
        """Heal all that is active, newest first, and sweep the links. Raises FaultFailed."""
        troubles = []
        for fault in reversed(self._active.copy()):
            try:
                self.heal(fault)
            except (ChaosError, OSError) as error:
                troubles.append(f"{fault.name} on {fault.target}: {error}")
        try:
            self._world.toxiproxy.sweep()
        except ChaosError as error:
            troubles.append(str(error))
        if troubles:
            raise FaultFailed("; ".join(troubles))
