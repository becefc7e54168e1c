"""The flags of labels, of which a network that knows some is told one with each text."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..command_line import CommandLine, refuse


class LabelFlags(CommandLine):
    """The labels."""

    label_column: str | None = None
    """Column of a table or data set that holds a label for each text: integers from 0, or names, which are numbered in the order
    of the alphabet. Needs a network that knows labels: --config_name token-diffusion, with as many as there are unless
    --config_overrides says num_classes, or a folder of such a network. Not with --packing."""
    label_dropout: float = Field(0.1, ge=0, le=1)
    """Share of the examples that are shown without their label while training, so that the network also knows texts of any."""

    @model_validator(mode="after")
    def _one_column(self) -> LabelFlags:
        if self.label_column is None and "label_dropout" in self.model_fields_set:
            refuse("label_dropout", "come with label_column", self.label_dropout)
        return self
