"""Load profiles for Locust, one a file. They speak HTTP only and import neither `scheduler` nor `chaos`."""
