"""LST and its baselines: model, loader, trainer, scoring, generation. Knows the shards and nothing of how they were made."""
