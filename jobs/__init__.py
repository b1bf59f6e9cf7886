"""Ray entry points: one file per command. What they share is in `jobs.runtime`."""
