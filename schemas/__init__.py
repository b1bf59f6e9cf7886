"""What crosses a boundary: tables, cards, commits, the shard index and the pipeline spec. Imports none of the other rooms."""
