"""The harness: loads the scheduler, breaks it, and judges every promise from an independent record.

It talks to the scheduler as an outsider does: HTTP, process signals, and the stores read directly.
"""
