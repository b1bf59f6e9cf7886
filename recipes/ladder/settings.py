"""What a ladder is made of: `configs/stories/ladder*.yaml`, read strictly."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from recipes.stories.cloze import RUNGS, least_events
from recipes.stories.telling import RETOLD
from recipes.stories.voices import NAMES
from schemas.config import StrictModel
from schemas.spec import HubertSpec, MfccSpec

HOP = 640
"""40 ms at 16 kHz: 25 units per second, as the paper's."""
PROBES = ("word", "syntax", "voice")
"""Rungs that no story tells: a pseudo-word in an ending, two of its words exchanged, an ending in another voice."""


class PhoneUnits(StrictModel):
    """The oracle: every 40 ms the phone that the synthesiser speaks."""

    kind: Literal["phones"]


class ClusterUnits(StrictModel):
    """Clusters of features, fitted on the ladder's own speech or given."""

    num_units: int = Field(gt=1, le=1000)
    centroids: str | None = None
    """A folder of clusters fitted before (`kmeans` in a ladder's output). None: fitted anew, which comes out alike on one kind of
    processor alone, since products sum in another order on another."""
    renditions: int | None = Field(None, ge=1)
    """Each word is spoken in so many unit strings, its most frequent ones; None: as it comes, in each sentence anew."""
    learn_from: int = Field(40, ge=1)
    """Occurrences of each word that its renditions are counted in; not read with `renditions: null`."""


class MfccUnits(ClusterUnits):
    """Of MFCC features."""

    kind: Literal["mfcc"]

    @property
    def encoder(self) -> MfccSpec:
        return MfccSpec(hop=HOP)


class HubertUnits(ClusterUnits):
    """Of a HuBERT's, each sentence heard by itself. Even with given clusters a few units differ between kinds of processor."""

    kind: Literal["hubert"]
    encoder: HubertSpec

    @field_validator("encoder")
    @classmethod
    def _the_hop_is_the_ladder_s(cls, encoder: HubertSpec) -> HubertSpec:
        if encoder.hop != HOP:
            raise ValueError(f"a ladder has units of {HOP} samples: name a model of that hop and write hop: {HOP}")
        return encoder


class ProbeConfig(StrictModel):
    """A task file of one split."""

    split: Literal["dev", "test"]
    pairs: int = Field(gt=0)
    """Per rung; a pair is two items. Pair n is the same in every ladder of one seed and story length."""
    wordings: Literal["trained", "untrained"] = "trained"
    """untrained: sentences that no training story has, in words that they have; of the rungs place, person, object, spot, holder
    and binding, and no probes."""

    @property
    def name(self) -> str:
        """Of its file, and of the task after the ladder's name."""
        return self.split if self.wordings == "trained" else f"{self.split}-untrained"


class LadderConfig(StrictModel):
    """A ladder. Everything but `output` decides the bytes that are written."""

    output: str
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int
    events: list[int] = Field(min_length=1)
    """Sentences of a story before its ending; stories take them in turns."""
    rungs: list[str] = Field(min_length=1)
    """Of stories, told alike often in training and scored each by itself."""
    probes: list[str] = []
    """Rungs of PROBES beside them. `voice` needs two voices."""
    speech_stories: int = Field(gt=0)
    text_stories: int = Field(gt=0)
    voices: list[str] = Field(min_length=1)
    """Of flite, taken in turns: kal16, awb, rms, slt."""
    units: PhoneUnits | MfccUnits | HubertUnits = Field(discriminator="kind")
    tasks: list[ProbeConfig]

    @field_validator("voices")
    @classmethod
    def _voices_are_known(cls, voices: list[str]) -> list[str]:
        if unknown := set(voices) - set(NAMES["flite"]):
            raise ValueError(f"no voice {', '.join(sorted(unknown))} of flite; there are {', '.join(NAMES['flite'])}")
        return voices

    @model_validator(mode="after")
    def _rungs_can_be_told(self) -> Self:
        if unknown := [rung for rung in self.rungs if rung not in RUNGS]:
            raise ValueError(f"no rung {', '.join(unknown)}; there are {', '.join(RUNGS)}")
        if unknown := [probe for probe in self.probes if probe not in PROBES]:
            raise ValueError(f"no probe {', '.join(unknown)}; there are {', '.join(PROBES)}")
        short = [rung for rung in self.rungs if min(self.events) < least_events(rung)]
        if short:
            raise ValueError(f"rungs {', '.join(short)} need {max(map(least_events, short))} events")
        if any(t.wordings == "untrained" for t in self.tasks) and not set(self.rungs) & set(RETOLD):
            raise ValueError(f"tasks of untrained wordings need a rung of {', '.join(RETOLD)}")
        if "voice" in self.probes and len(self.voices) < 2:
            raise ValueError("the probe voice needs a second voice")
        return self
