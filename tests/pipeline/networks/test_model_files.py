"""Loading a model says nothing on stderr: a command's own lines stand there."""

from pathlib import Path

import pytest
from transformers import HubertModel
from transformers.utils import logging

from pipeline.networks.model_files import whole_model

TINY = Path(__file__).parents[3] / "assets" / "tiny-hubert"


def test_loading_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    shown = logging.is_progress_bar_enabled()
    whole_model(HubertModel, TINY, "it is none")
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled() == shown
