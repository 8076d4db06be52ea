"""What a run submits: the mix of jobs, their arrivals, and the client that sees each one accepted."""
