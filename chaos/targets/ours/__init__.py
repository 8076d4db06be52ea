"""The scheduler of this repository as a target. Elsewhere only model and controls know anything of it."""
