"""The queues under test: what start, submit, observe, look, wipe and stop mean for each. Ours is the first."""
