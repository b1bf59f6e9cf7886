"""The stages: pure functions from rows to rows and rejects. No Ray, no store, no paths of other stages."""
