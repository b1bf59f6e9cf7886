"""The joint vocabulary: five special elements, then the text tokens, then the speech units."""

from __future__ import annotations

from schemas.config import StrictModel

PAD, BOS, EOS, TEXT_MARK, SPEECH_MARK = range(5)
"""TEXT_MARK and SPEECH_MARK are the paper's `<t>` and `<s>`: each span of a modality begins with its mark."""
NUM_SPECIAL = 5


class Vocabulary(StrictModel):
    """Sizes of the two modalities and where their ids lie."""

    num_text: int
    """Tokens of the text tokenizer."""
    num_units: int
    """Units of the speech tokenizer."""

    @property
    def size(self) -> int:
        """Ids in all."""
        return NUM_SPECIAL + self.num_text + self.num_units

    @property
    def text_offset(self) -> int:
        """Id of text token 0."""
        return NUM_SPECIAL

    @property
    def unit_offset(self) -> int:
        """Id of unit 0; every id from here on is a unit."""
        return NUM_SPECIAL + self.num_text
