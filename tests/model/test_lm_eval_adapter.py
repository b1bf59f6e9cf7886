"""What lm_eval gets from the adapter is what scoring says. Needs the extra `lm-eval`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.model.network.cases import VOCABULARY
from tests.model.scoring.scoring_cases import Bigram, scorer

pytest.importorskip("lm_eval")


def test_requests_are_answered_in_their_order() -> None:
    from lm_eval.api.registry import get_model

    from model.scoring.harness import LatentSpeechText

    assert get_model("lst") is LatentSpeechText
    ready = scorer(Bigram(torch.randn(VOCABULARY.size, VOCABULARY.size)))
    adapter = LatentSpeechText(scorer=ready, batch_size=1)
    pairs = [("a b", " c"), ("", "a b"), ("g", " f")]
    requests = [SimpleNamespace(args=pair) for pair in pairs]
    assert adapter.loglikelihood(requests) == ready.score_text(pairs)
    rolling = adapter.loglikelihood_rolling([SimpleNamespace(args=("a b c",))])
    assert rolling == [ready.score_text([("", "a b c")])[0][0]]
    with pytest.raises(ValueError, match="choose tasks that compare likelihoods"):
        adapter.generate_until(requests)
