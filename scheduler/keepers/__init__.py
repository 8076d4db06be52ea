"""The loops that keep the index true, one a file: promoter, rescuer, reconciler, pruner."""
