"""What an experiment stands on: servers, processes, eyes on the stores, the far end of webhooks."""
