"""Compiled functions run on machines where nothing can be kept."""

import subprocess
import sys
from pathlib import Path

READ_ONLY = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import numpy as np
from pipeline.align.viterbi import viterbi
from pipeline.codebook.assign import Quantiser
emissions = np.log(np.array([[0.1, 0.9], [0.9, 0.1]], np.float32))
units = Quantiser(np.eye(2, dtype=np.float32)).assign(np.array([[0.1, 0.8]], np.float32))
print(viterbi(emissions, np.array([1])).tolist(), units.tolist())
"""


def test_where_nothing_can_be_kept_a_process_compiles_for_itself() -> None:
    """In a container whose file system is read-only the stages of words and units ended in a traceback when they were planned."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", READ_ONLY], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "[1, 2] [1]\n", done.stderr
