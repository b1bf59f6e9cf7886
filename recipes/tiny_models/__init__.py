"""A tiny HuBERT and a tiny letter CTC, trained on data that is built on the spot. README.md says how and why."""
