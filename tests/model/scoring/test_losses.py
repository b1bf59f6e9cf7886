"""Tables of where the loss lies: they add up, and a model that reads one unit back gains nothing by more context."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.data.compose import utterance_of
from model.data.shards import ShardSet
from model.inference.patching import Patching
from model.network.vocabulary import SPEECH_MARK
from model.scoring.losses import Losses, describe, measure_losses, tables
from schemas.config import ConfigError
from tests.model.network.cases import VOCABULARY, policy
from tests.model.scoring.scoring_cases import SECONDS, Bigram, scorer
from tests.synthetic_shards import write_speech_shards


def bigram_tables(folder: Path, patches: Any) -> tuple[Losses, Bigram, list[np.ndarray]]:
    write_speech_shards(folder, [6], words=(20, 40), num_units=VOCABULARY.num_units)
    shards = ShardSet(str(folder / "index.json"))
    spoken = [utterance_of(shards.read(0, number)) for number in range(6)]
    generator = torch.Generator().manual_seed(0)
    model = Bigram(torch.randn(VOCABULARY.size, VOCABULARY.size, generator=generator))
    trained = SimpleNamespace(config=SimpleNamespace(patches=patches))
    wanted = scorer(model, Patching(prompt=policy("static"), ending=policy("static")))
    return tables(wanted, trained, spoken), model, [utterance.units for utterance in spoken]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["static", "aligned"])
def test_tables_add_up_to_the_loss_and_a_bigram_needs_one_unit(tmp_path: Path, name: str) -> None:
    """Kinds weighted by their share give the whole, which is the bigrams' own sum; seconds further back are worth nothing."""
    found, model, units = bigram_tables(tmp_path, policy(name))
    nats = [model.log_prob([SPEECH_MARK, *(VOCABULARY.unit_offset + one for one in unit.tolist())]) for unit in units]
    expected = -sum(nats) / math.log(2) / (SECONDS * sum(map(len, units)))
    assert found.bits_per_second == pytest.approx(expected, rel=1e-5)
    assert sum(c.bits_per_second * c.share for c in found.by_kind.values()) == pytest.approx(expected, rel=1e-5)
    assert sum(c.share for c in found.by_kind.values()) == pytest.approx(1)
    assert sum(c.share for c in found.by_frame.values()) == pytest.approx(found.by_kind["word"].share)
    assert list(found.context) == ["0 s", "2.5 s", "5 s", "10 s", "all"]
    assert found.context["all"] == pytest.approx(expected, rel=1e-5)
    assert list(found.context_value.values())[1:] == pytest.approx([0, 0, 0], abs=1e-4)
    assert found.context_value["2.5 s"] != pytest.approx(0, abs=1e-4)
    assert "place in patch" not in describe(found), "this model is a plain one"
    assert "silence" in describe(found)


def test_patches_of_text_tokens_are_refused() -> None:
    """Windows of speech have no text; the sentence was that the shards lack character times, with a traceback."""
    data = SimpleNamespace(unit_bpe=None, held_out=0.1)
    trained: Any = SimpleNamespace(config=SimpleNamespace(data=data, patches=policy("bpe_aligned")))
    with pytest.raises(ConfigError, match="patches begin where text tokens do"):
        measure_losses(trained, 3)
