"""A ladder one can climb: short stories whose speech is as easy or as hard as wanted, straight to shards and tasks."""
