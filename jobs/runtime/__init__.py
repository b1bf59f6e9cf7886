"""What the entry points share: the store of committed tables, the plan, the workers, the summary."""
