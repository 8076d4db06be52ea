"""What runs: one loop a file, each a Service."""
