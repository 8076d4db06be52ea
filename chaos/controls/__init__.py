"""Builds of the scheduler that are broken on purpose, each of which a check must catch."""
