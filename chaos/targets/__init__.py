"""The queues under test: the seam that says what the harness needs of one, and ours, the first."""
