"""A tokenizer with GPT-2's special tokens, of any size."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


def gpt2_tokenizer(size: int, **added: str) -> PreTrainedTokenizerFast:
    """Words w0, w1, ... and last of `size` ids the end token, which begins texts, too; then what is added, by its role."""
    vocabulary = {f"w{index}": index for index in range(size - 1)} | {END: size - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="##")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END)
    for role, spelling in added.items():
        fast.add_special_tokens({role: spelling})
    return fast
