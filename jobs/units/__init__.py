"""Jobs that learn from the units of finished shards."""
