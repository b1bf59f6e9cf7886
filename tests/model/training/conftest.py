"""What the tests of training share."""

from pathlib import Path

import pytest

from tests.model.training.training_runs import write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards, tokenizer and texts of a run; tests read them alone."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder
