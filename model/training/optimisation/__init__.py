"""How weights move: the optimisers and the schedule of their rate."""
