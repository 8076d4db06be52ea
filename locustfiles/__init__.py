"""Load profiles for Locust, one a file. They speak HTTP only; of the harness they share the mix of jobs."""
