"""What came with a corpus beside its audio: words with times from many formats, and ready units."""
