"""How a job comes in: one checked value for every door, group commit, publishing, admission."""
