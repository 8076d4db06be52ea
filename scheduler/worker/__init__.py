"""A worker and its steps: read, claim, run, settle, acknowledge; and the heartbeat that keeps its lease."""
