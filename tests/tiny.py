"""Tiny random masked LMs, tokenizers and checkpoint folders, and a denoiser whose logits no batching can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import save_checkpoint
from token_diffusion.facts import Facts, Frame
from trainer.data.tokenizer import build_smiles_tokenizer

PROCESSES = ("absorbing", "uniform", "hybrid")
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_POSITIONS = 96

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.5,  # so that logits differ as those of a trained model do
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": {f"{kind}_token_id": 0 for kind in ("pad", "bos", "eos", "cls", "sep")},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "token-diffusion": {},
}
MIXERS: dict[str, dict[str, Any]] = {
    "fnet": {"pad_token_id": 0},
    "convbert": {"embedding_size": 32},
    "nystromformer": {},
    "funnel": {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1, 1]},
    "yoso": {},
}
"""Networks that let a row's padding into its logits."""


def tiny_model(architecture: str = "bert", vocab_size: int = 50, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random masked LM of two layers in evaluation mode, the same for the same arguments."""
    sizes = SIZES | ARCHITECTURES.get(architecture, {}) | overrides
    config = AutoConfig.for_model(architecture, vocab_size=vocab_size, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForMaskedLM.from_config(config).eval()


def mixer(name: str, scale: float = 0.5, **overrides: Any) -> Any:
    """One of `MIXERS`, in evaluation mode; Funnel has names of its own for sizes."""
    if name != "funnel":
        return tiny_model(name, initializer_range=scale, **MIXERS[name] | overrides)
    config = AutoConfig.for_model(name, vocab_size=50, initializer_std=scale, **MIXERS[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForMaskedLM.from_config(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words w0 .. w44 and BERT's five special tokens: 50 ids."""
    return word_tokenizer(45)


def word_tokenizer(num_words: int) -> PreTrainedTokenizerFast:
    """Whole words w0, w1, ... after BERT's five special tokens."""
    words = SPECIAL_TOKENS + [f"w{index}" for index in range(num_words)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _with_special_tokens(tokenizer)


def byte_tokenizer(mask: str = "[MASK]", mask_takes_space: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, a word with the space before it one token; `mask_takes_space` as RoBERTa's and ModernBERT's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[*SPECIAL_TOKENS[:-1], AddedToken(mask, lstrip=mask_takes_space, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat on the cat."] * 3, trainer)
    return _with_special_tokens(tokenizer, mask)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level one with a chat template, whose messages lie between `<|start|>` and `<|end|>`."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"], "eos_token": "<|end|>"})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def wordpiece_tokenizer() -> BertTokenizer:
    """BERT's own kind: lower case, words and ##continuations, spaces not kept."""
    words = [*SPECIAL_TOKENS, "the", "cat", "sat", "on", "mat", "mask", "un", "##able", "##s", *"[].,'abcdefghij"]
    return BertTokenizer({word: index for index, word in enumerate(words)})


def _with_special_tokens(tokenizer: Tokenizer, mask: str = "[MASK]") -> PreTrainedTokenizerFast:
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special_tokens: dict[str, Any] = dict(zip(names, [*SPECIAL_TOKENS[:-1], mask], strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens)


def save_tiny(
    folder: Path,
    process: str,
    architecture: str = "bert",
    tokenizer: PreTrainedTokenizerBase | None = None,
    facts: Facts | None = None,
    **overrides: Any,
) -> Path:
    """A checkpoint folder of a random model with a scheduler of `process`."""
    tokenizer = tokenizer or tiny_tokenizer()
    scheduler = TokenDiffusionScheduler(len(tokenizer), tokenizer.mask_token_id, forward_process=process)
    model = tiny_model(architecture, len(tokenizer), seed=PROCESSES.index(process), **overrides)
    save_checkpoint(folder, model, tokenizer, scheduler, facts=facts)
    return folder


def save_smiles(folder: Path, molecules: list[str], **overrides: Any) -> Path:
    """An absorbing model of SMILES, whose end is learnt."""
    facts = Facts(Frame((2,), (3,)), known=True).ending_with(3)
    return save_tiny(folder, "absorbing", tokenizer=build_smiles_tokenizer(molecules), facts=facts, **overrides)


def save_labelled(folder: Path, process: str = "uniform", num_classes: int = 3) -> Path:
    """The same of a network that is told time and label, all of whose weights are drawn: at first its norms are plain ones."""
    save_tiny(folder, process)
    options: dict[str, Any] = {"time_conditioning": "sigma", "cond_dim": 16, "num_classes": num_classes}
    model = tiny_model("token-diffusion", **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    model.save_pretrained(folder)
    return folder


class NeighbourDenoiser:
    """Logits float64 from a token, the one to its left and t, elementwise: the same bits in whatever batch and padding.

    `shapes` are those of the batches it was called with.
    """

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.own, self.left = torch.randn(2, vocab_size, vocab_size, dtype=torch.float64, generator=generator) * 2
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        rows, length = tokens.shape
        self.shapes.append((rows, length))
        return self.own[tokens] + self.left[F.pad(tokens[:, :-1], (1, 0))] * t[:, None, None]


class Labelled(NeighbourDenoiser):
    """Another vocabulary's worth of logits for each label; the same bits in whatever batch. told: the labels of each call."""

    num_classes = 3

    def __init__(self, vocab_size: int = 7) -> None:
        super().__init__(vocab_size)
        self.of_label = torch.randn(4, vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
        self.told: list[list[int] | None] = []

    def __call__(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.told.append(None if labels is None else labels.tolist())
        none = torch.full((len(tokens),), -1)
        return super().__call__(tokens, t) + self.of_label[none if labels is None else labels].unsqueeze(1)
