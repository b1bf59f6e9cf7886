"""A checkpoint as EleutherAI's lm-evaluation-harness sees it: the model "lst" there. Needs the extra `lm-eval`."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from model.inference.trained import load_trained
from model.scoring.scorer import Precision, Scorer, make_scorer


@register_model("lst")
class LatentSpeechText(LM):
    """A checkpoint as lm_eval sees it: text in, log-likelihoods out."""

    def __init__(
        self,
        checkpoint: str = "",
        precision: Precision = "fp64",
        device: str = "cpu",
        max_elements: int = 8192,
        scorer: Scorer | None = None,
        **_: Any,
    ) -> None:
        """`checkpoint`: a run or one of its checkpoints; or a scorer that is ready. lm_eval passes its own settings too (batch
        size and the like), which mean nothing here.

        Raises:
            CheckpointError, ConfigError: see `load_trained`.
        """
        super().__init__()
        if scorer is None:
            scorer = make_scorer(load_trained(checkpoint, device), "auto", precision, int(max_elements))
        self.scorer = scorer

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each continuation given its context, and whether it is the greedy one."""
        del disable_tqdm
        return self.scorer.score_text([request.args for request in requests])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each as one document."""
        del disable_tqdm
        return [value for value, _ in self.scorer.score_text([("", request.args[0]) for request in requests])]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError("tasks that generate text are not supported here; choose tasks that compare likelihoods")
