"""Readers of runs: notebooks, and `analysis`, the tested code they call. Nothing here starts or judges
anything.
"""
