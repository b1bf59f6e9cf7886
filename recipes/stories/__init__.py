"""Short causal stories with cloze endings, written and spoken here: docs/stories.md."""
