"""What a job is: pure values and functions. No I/O, no clock, no randomness of its own."""
