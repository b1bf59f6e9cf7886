"""What a GPU makes of the pipeline's networks, beside what `model.gpu_check` finds out about the trainer."""
