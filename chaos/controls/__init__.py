"""Builds of the scheduler that are broken on purpose, one family a file; each of them a check must catch.

A check whose control passes has proved nothing. The family `harmless` holds faults of the same sort that the design
outlives: they must lose nothing. These are the only modules of the harness that reach into the scheduler.
"""
