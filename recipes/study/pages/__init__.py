"""The pages that report a study, in its two layouts."""
