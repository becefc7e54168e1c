"""A byte-level BPE tokenizer trained on text files: every string has tokens, and decoding gives the string back."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..config import TokenizerConfig
from ..output.files import check_output_dir
from .corpus import read_documents
from .cutting import Cutter

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(config: TokenizerConfig) -> int:
    """Writes the tokenizer to `output_dir` and returns its size. Raises `ParameterError` for unreadable text."""
    check_output_dir(config.output_dir)
    documents = read_documents("train_file", config.train_file, packing=True, text_column=config.text_column)
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
