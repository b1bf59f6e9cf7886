"""Models by name or by file, as both sides of the shards find them: the hub's cache, the BPE over units."""
