"""What a run says while it works: logs, lines, bars, metrics."""
