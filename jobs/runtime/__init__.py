"""The engine of the pipeline: the plan, tasks and workers, and the run that drives them."""
