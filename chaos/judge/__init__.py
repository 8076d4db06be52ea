"""What the record proves: promises as pure functions over a run, and guards against runs that prove nothing."""
