"""Side-by-side measurements: each prints one table against named rivals and can write it as JSON."""
