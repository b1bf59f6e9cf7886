"""The plan of a run, its tasks, and what a worker does with one: all of it works without Ray."""
