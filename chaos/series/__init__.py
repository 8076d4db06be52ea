"""Many runs together: lanes that carry them out, campaigns that sum them up, the register of claims."""
