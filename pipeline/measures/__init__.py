"""What is measured of a segment's sound and of its text, each against a known truth in the tests."""
