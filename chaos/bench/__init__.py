"""Speed: rates of a queue beside what the bare stores do, measured in turn in one run."""
