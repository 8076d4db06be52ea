"""A model of the protocol: every order of its steps, with faults, for one or two jobs and two workers.

What the stores, the API and the workers do is written down here a second time, in steps small enough to be explored to
the last interleaving; only the table of transitions is the product's own. See *The model* in docs/protocol.md.
"""

from chaos.model.variants import Explored, report

__all__ = ["Explored", "report"]
