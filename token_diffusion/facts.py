"""What a folder says beside model and scheduler, in `token_diffusion.json`: how the sequences that it learnt from were framed.

A folder without that file was written before there was one: it has no frame, and nothing else is known of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .errors import ParameterError

FACTS_FILE = "token_diffusion.json"


@dataclass(frozen=True)
class Frame:
    """Control tokens before and after the text of every sequence, `[CLS] … [SEP]` for one; given, never generated."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)

    def around(self, tokens: Sequence[int]) -> list[int]:
        """The sequence of a text's tokens."""
        return [*self.prefix, *tokens, *self.suffix]

    def inside(self, tokens: Sequence[int]) -> Sequence[int]:
        """The text's tokens of a sequence."""
        return tokens[len(self.prefix) : len(tokens) - len(self.suffix)]


@dataclass(frozen=True)
class Facts:
    """What is known of the sequences that a folder's model was trained on.

    learnt: control tokens that were noised and counted as any other, and may be in a sample: an end token, for one.
    end_tokens: those of them that end a text; None: the tokenizer's EOS and SEP. The end of a turn, say, is neither.
    fill: the end token that filled each text's sequence up to one length, if one did.
    known: whether the folder says any of this.
    """

    frame: Frame = Frame()
    learnt: frozenset[int] = frozenset()
    known: bool = False
    end_tokens: frozenset[int] | None = None
    fill: int | None = None

    def ending_with(self, end: int) -> Facts:
        """Of sequences that `end` fills up behind their texts: it is learnt, and no frame stands behind it."""
        ends = None if self.end_tokens is None else self.end_tokens | {end}
        frame, learnt = Frame(self.frame.prefix), self.learnt | {end}
        return replace(self, frame=frame, learnt=learnt, known=True, end_tokens=ends, fill=end)

    def write(self, folder: Path) -> None:
        """Into a folder that has yet to get its name."""
        values: dict[str, Any] = {
            "frame": {"prefix": list(self.frame.prefix), "suffix": list(self.frame.suffix)},
            "learnt_control_tokens": sorted(self.learnt),
        }
        if self.end_tokens is not None:
            values["end_tokens"] = sorted(self.end_tokens)
        if self.fill is not None:
            values["fill_token"] = self.fill
        (folder / FACTS_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def forbidden(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[int, ...]:
        """Ids below `vocab_size` that no sample may hold: those without a token, and control tokens that are not learnt.

        Of a folder that does not say how it was trained only those without a token, so that its old seeds keep their samples.
        """
        gaps = set(range(vocab_size)) - set(tokenizer.get_vocab().values())
        control = set(control_ids(tokenizer)) - self.learnt if self.known else set()
        return tuple(sorted(gaps | {id for id in control if id < vocab_size}))

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
        """Ids that a model has learnt to end a text with."""
        usual = {tokenizer.eos_token_id, tokenizer.sep_token_id}
        return self.learnt & (usual if self.end_tokens is None else self.end_tokens)


UNKNOWN = Facts()


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that mean something else than text: mask, padding, CLS, SEP, BOS, EOS, and whatever else is marked as special.

    The unknown token stands for text that has no token, and is not among them, unless it serves as one of these as well.
    """
    names = tokenizer.special_tokens_map
    marked = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = (set(tokenizer.all_special_ids) | marked) - {tokenizer.unk_token_id}
    if names.get("unk_token") in [token for name, token in names.items() if name != "unk_token"]:
        ids.add(tokenizer.unk_token_id)
    return frozenset(ids)


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The frame that the tokenizer itself puts around a text."""
    # Not every vocabulary can write an "a": one of bases has A, C, G and T.
    words = map(tokenizer.decode, sorted(set(tokenizer.get_vocab().values()) - control_ids(tokenizer)))
    encoded = (tokenizer(text, return_special_tokens_mask=True) for text in chain(["a"], words))
    written = ((list(each["input_ids"]), list(each["special_tokens_mask"])) for each in encoded)
    ids, special = next(((ids, special) for ids, special in written if not all(special)), ([], []))
    start = next((index for index, flag in enumerate(special) if not flag), len(ids))
    end = next((len(ids) - index for index, flag in enumerate(reversed(special)) if not flag), len(ids))
    return Frame(tuple(ids[:start]), tuple(ids[end:]))


def read_facts(folder: Path, vocab_size: int) -> Facts:
    """What the folder says. Raises `ParameterError` if its file cannot be read as that, or names ids beyond the vocabulary."""
    path = folder / FACTS_FILE
    if not path.exists():
        return Facts()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        frame, ends, fill = values["frame"], values.get("end_tokens"), values.get("fill_token")
        return Facts(
            Frame(_ids(frame["prefix"], vocab_size), _ids(frame["suffix"], vocab_size)),
            frozenset(_ids(values["learnt_control_tokens"], vocab_size)),
            known=True,
            end_tokens=None if ends is None else frozenset(_ids(ends, vocab_size)),
            fill=None if fill is None else _ids([fill], vocab_size)[0],
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise ParameterError("checkpoint_path", f"hold a readable {FACTS_FILE} ({what})", str(folder)) from error


def _ids(values: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(id) is int and 0 <= id < vocab_size for id in values):
        raise ValueError(f"token ids must be a list of integers in [0, {vocab_size}), got {values!r}")
    return tuple(values)
