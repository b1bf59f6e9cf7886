"""The study: every arm of the paper's comparison at one small size, in sittings, and the page that reports it."""
