"""Reading what a run left: its committed tables, its shards."""
