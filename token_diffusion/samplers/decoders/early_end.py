"""Early end: a row whose text has ended is not filled in any further.

A text is decided when one of its positions has an end token that was drawn, and nothing before that is masked; no later step can
change it, as the decoder's tokens are final. What is still masked behind it becomes that end token and the row has finished. Its
text is the one that it would have had: nothing behind an end token belongs to it (text/endings.py), so only the network's work is
less. As there, an end token before fixed text ends nothing, but for the frame's, and neither does the very first token of a
sequence, with which texts begin, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ParameterError
from ..draws import put
from ..parameters import SamplingParameters
from ..rows import NEVER, SampleRows
from ..sampler import Around, Decoder, Logits, Outcome, Plan


class EarlyEnd(Around):
    """Rows that end with their text, of a sampler around `decoder`, or of that itself."""

    def __init__(self, inner: Any, decoder: Decoder) -> None:
        super().__init__(inner)
        self.vocabulary, self.settles, self.process = decoder.vocabulary, decoder.settles, decoder.process.name

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        if not self.settles:
            which = f"the sampler {parameters.sampler} of the {self.process} process"
            raise ParameterError("early_end", f"be false for {which}, which may rewrite tokens that it has set", True)

    def commit(self, rows: SampleRows, plan: Plan, logits: Logits) -> Outcome:
        return self._ended(rows, super().commit(rows, plan, logits))

    def _ended(self, rows: SampleRows, outcome: Outcome) -> Outcome:
        """What an evaluation changed, and what ends the rows whose text it has decided."""
        position, masked = rows.position, rows.open & (rows.tokens == self.vocabulary.mask_token_id)
        first_end, first_mask = (torch.where(at, position, NEVER).amin(1) for at in (self._ends(rows), masked))
        over = (first_end < first_mask) & ~rows.finished & ~rows.failed
        if not bool(over.any()):
            return outcome
        row, column = (masked & over.unsqueeze(1)).nonzero(as_tuple=True)
        more = put(rows, row * position.shape[1] + column, rows.step, rows.tokens[row, first_end[row]])
        rows.end(over)
        order = torch.cat([outcome.row, more.row]).argsort(stable=True)
        both = zip((outcome.row, outcome.column, outcome.token), (more.row, more.column, more.token), strict=True)
        return Outcome(*(torch.cat(each)[order] for each in both))

    def _ends(self, rows: SampleRows) -> Tensor:
        """Where end tokens that were drawn end a text, bool [R, L]."""
        fixed = rows.valid & ~rows.open & ~rows.framed
        last_fixed = torch.where(fixed, rows.position, 0).amax(1, keepdim=True)
        return rows.open & torch.isin(rows.tokens, self.vocabulary.ends) & (rows.position > last_fixed)
