"""Tokenizers made of text files, whose decoding gives the text back: byte-level BPE, which can write any string, and SMILES."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from token_diffusion.errors import ParameterError

from ..config import TokenizerConfig
from ..output.files import check_output_dir
from .corpus import read_documents
from .cutting import Cutter

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

SMILES = r"\[[^\[\]]+\]|Br|Cl|[BCNOPSFI*bcnops]|%\d\d|%\(\d+\)|\d|[-=#$:/\\~.>()]"
"""A token of SMILES (opensmiles.org): an atom, one in brackets whole; a ring's number; a bond, dot, arrow or branch."""


def train_tokenizer(config: TokenizerConfig) -> int:
    """Writes the tokenizer to `output_dir` and returns its size. Raises `ParameterError` for unreadable text."""
    check_output_dir(config.output_dir)
    smiles = config.kind == "smiles"
    documents = read_documents("train_file", config.train_file, packing=not smiles, text_column=config.text_column)
    if smiles:
        tokenizer = build_smiles_tokenizer(documents)
    else:
        tokenizer = build_tokenizer(documents, config.vocab_size, config.min_frequency, config.lowercase)
    tokenizer.save_pretrained(config.output_dir)
    return len(tokenizer)


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, min_frequency: int = 2, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """The tokenizer of `texts`; it frames a text as [CLS] … [SEP] unless asked not to."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # Words hold the space before them here, and so does what fills a mask.
        special_tokens=[AddedToken(token, lstrip=token == "[MASK]", special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Words are counted, whichever pieces they come in; a tokenizer that is being trained cannot be asked for its words.
    cutter = Cutter(Tokenizer.from_str(tokenizer.to_str()))
    tokenizer.train_from_iterator((piece for text in texts for piece in cutter.pieces([text])), trainer)
    return _framed(tokenizer)


def build_smiles_tokenizer(molecules: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of the tokens that these SMILES strings have, the most frequent first; others are `[UNK]` to it.

    Raises:
        ParameterError: one of them has a character that is none of a SMILES string.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(map(_checked, molecules), trainer)
    return _framed(tokenizer)


def _checked(molecule: str) -> str:
    """The string. Raises `ParameterError` for what is no SMILES in it, a control token's name in brackets for one."""
    rest = re.sub(SMILES, "", molecule)
    named = next((token for token in SPECIAL_TOKENS if token in molecule), None)
    if rest or named:
        raise ParameterError("train_file", f"hold a SMILES string a line, without {named or rest[0]!r}", molecule)
    return molecule


def _framed(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """As one of transformers, which frames a text as [CLS] … [SEP] unless asked not to."""
    frame = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        cls_token="[CLS]",
        eos_token="[SEP]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )
