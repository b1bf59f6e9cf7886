"""Where a command runs: the Ray session, the folder that relative paths start from, and the bounds on a worker process."""
