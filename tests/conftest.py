"""For all tests: none reaches a model hub, so that what one finds does not depend on the machine's network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported, which reads it once
