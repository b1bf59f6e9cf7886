"""A run on Ray: which worker does what next, what becomes of those who die, and what the driver says and hears meanwhile."""
