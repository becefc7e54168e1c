"""What a run trains and validates on: noisy batches of this process, from text that is stored or streamed."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.diffusion.times import time_power
from token_diffusion.facts import Facts, Frame

from ..config import SFTConfig, TrainingConfig
from .chat.answers import AnswerExamples
from .chat.exchanges import Exchanges, tokenize_exchanges
from .corpus import Corpus, train_files
from .noising import (
    Batches,
    Collate,
    Draw,
    NoisyExamples,
    TrainingBatches,
    ValidationBatches,
    Window,
    make_loader,
    padding,
)
from .reading.documents import Documents
from .reading.labels import Labels
from .sequences import Sequences, special, tokenize
from .spelling import Spelling, spell
from .streaming import START, Position, SequenceStream, open_documents, read_ahead, source_fingerprint

Batch = dict[str, Tensor]


class Feed:
    """The validation text, and what stored and streamed training text have in common.

    `facts` say how sequences are framed and which control tokens are learnt, `labels` what the network is told of them.
    `window` counts the examples of an optimizer step, `fingerprint` identifies the training text, `position` is how far this
    process has read in it, None where the step alone tells.
    """

    fingerprint: str
    position: Position | None = None

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: TokenDiffusionScheduler,
        facts: Facts,
        labels: Labels | None = None,
    ) -> None:
        self.config, self.accelerator, self.corpus, self.facts = config, accelerator, corpus, facts
        self.labels = labels
        self.tokenizer, self.scheduler = tokenizer, scheduler
        micro_batches = config.gradient_accumulation_steps * accelerator.num_processes
        self.window = config.per_device_train_batch_size * micro_batches
        self.drawn = Window(self.window, config.seed, stratified=config.time_sampling == "stratified")
        self.pad_token_id = padding(tokenizer)
        self.validation = self.tokenize("validation_file", corpus.validation)
        self.spelling = self._spell()

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """This process's batches on its device, from the step after `first_step` (and `position`) on."""
        raise NotImplementedError

    @property
    def num_sequences(self) -> int | None:
        """Sequences in the training text; None of one that is streamed."""
        return None

    @property
    def num_dropped_tokens(self) -> int | None:
        """Tokens of the training text that are in no sequence, as their documents are too long; None of one that is streamed."""
        return None

    def validation_loader(self, num_times: int, unlabelled: bool = False) -> DataLoader:
        """unlabelled: whether the labels of the sequences are left out."""
        assert self.validation is not None
        batches = ValidationBatches(
            num_sequences=len(self.validation.ids),
            num_times=num_times,
            batch_size=self.config.per_device_eval_batch_size or self.config.per_device_train_batch_size,
            power=time_power(self.scheduler.process),
        )
        sequences = replace(self.validation, labels=None) if unlabelled else self.validation
        return self.loader(self.noisy(sequences), batches)

    def noisy(self, sequences: Sequences | None, **options: Any) -> NoisyExamples:
        """The sequences with noise (None where they are streamed); `options` are those of `NoisyExamples`."""
        ids: Sequence[Any] = () if sequences is None else sequences.ids
        special_ids = special(self.tokenizer, self.facts.learnt).tolist()
        labels = None if sequences is None else sequences.labels
        return NoisyExamples(ids, self.scheduler, special_ids, frame=self.facts.frame, labels=labels, **options)

    def tokenize(self, flag: str, documents: Documents | None) -> Sequences | None:
        """The sequences of the text that `flag` names; None without it."""
        if documents is None:
            return None
        config, main = self.config, self.accelerator.is_main_process
        most = config.max_eval_samples if documents is self.corpus.validation else config.max_train_samples
        with self.accelerator.main_process_first():  # the others then find its cache
            sequences = tokenize(
                self.tokenizer,
                documents,
                flag=flag,
                packing=config.packing,
                max_length=config.max_length,
                frame=self.facts.frame,
                learnt=self.facts.learnt,
                fill=self.facts.fill,
                labels=self.labels,
                num_threads=config.preprocessing_num_workers,
                progress=main,
            )
        return sequences.first(most)

    def examples(self, sequences: Sequences | None) -> NoisyExamples:
        """Training examples: counts, times and labels that are left out are drawn as the flags say."""
        config = self.config
        drawn: dict[str, Any] = {"counted": config.counted, "margin": config.margin}
        return self.noisy(sequences, label_dropout=config.label_dropout, **drawn)

    def loader(self, examples: NoisyExamples, batches: Batches) -> DataLoader:
        workers = self.config.dataloader_num_workers
        loader = make_loader(examples, batches, pad_token_id=self.pad_token_id, num_workers=workers)
        return self.accelerator.prepare(loader)

    def _spell(self) -> Spelling | None:
        """The characters of the validation sequences."""
        config, documents = self.config, self.corpus.validation
        if self.validation is None or documents is None:
            return None
        facts: dict[str, Any] = {"frame": self.facts.frame, "learnt": self.facts.learnt, "fill": self.facts.fill}
        lengths: dict[str, Any] = {"packing": config.packing, "max_length": config.max_length}
        return spell(self.tokenizer, documents, self.validation.ids, **lengths, **facts)


class StoredFeed(Feed):
    """All training text as tokens, visited in shuffled epochs."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        training = self.tokenize(train_files(self.config)[0], self.corpus.train)
        assert training is not None
        self.training, self.fingerprint = training, training.fingerprint

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        config = self.config
        batches = TrainingBatches(
            num_sequences=len(self.training.ids),
            batch_size=config.per_device_train_batch_size,
            window=self.drawn,
            num_steps=config.max_train_steps,
            first_step=first_step,
        )
        yield from self.loader(self.examples(self.training), batches)

    @property
    def num_sequences(self) -> int:
        return len(self.training.ids)

    @property
    def num_dropped_tokens(self) -> int:
        return self.training.num_dropped_tokens


class ChatFeed(StoredFeed):
    """Answers behind their prompts, see `chat.answers`; the end token and what else ends them is learnt.

    Of the frame of `facts` only what is before a text is kept: its end is what the model has to say.
    """

    config: SFTConfig

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert isinstance(self.training, Exchanges)
        learnt, ends = (
            self.facts.learnt | self.training.learnt,
            (self.facts.end_tokens or frozenset()) | self.training.ends,
        )
        self.facts = replace(self.facts, learnt=learnt, end_tokens=ends)

    def tokenize(self, flag: str, documents: Documents | None) -> Sequences | None:
        if documents is None:
            return None
        config = self.config
        self.facts = replace(self.facts, frame=Frame(self.facts.frame.prefix), known=True)
        found = tokenize_exchanges(
            self.tokenizer,
            documents,
            flag=flag,
            max_length=config.max_length,
            frame=self.facts.frame,
            every_answer=config.assistant_only_loss,
            progress=self.accelerator.is_main_process,
        )
        return found.first(
            config.max_eval_samples if documents is self.corpus.validation else config.max_train_samples
        )

    def noisy(self, sequences: Sequences | None, **options: Any) -> NoisyExamples:
        assert isinstance(sequences, Exchanges)
        special_ids = special(self.tokenizer, self.facts.learnt).tolist()
        return AnswerExamples(sequences, self.scheduler, special_ids, max_length=self.config.max_length, **options)

    def examples(self, sequences: Sequences | None) -> NoisyExamples:
        config = self.config
        drawn: dict[str, Any] = {"counted": config.counted, "margin": config.margin}
        return self.noisy(sequences, random_length_ratio=config.random_length_ratio, **drawn)

    def _spell(self) -> Spelling | None:
        """The end tokens that fill an example up stand for no text."""
        return None


class StreamedFeed(Feed):
    """Training text that is read while training; what an example is at a step depends on the number of processes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.documents = open_documents(self.config, self.tokenizer, self.labels)
        self.fingerprint = source_fingerprint(self.config)
        self.position = START

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        for batch, position in read_ahead(self._numbered(first_step)):
            self.position = position
            yield send_to_device(batch, self.accelerator.device, non_blocking=True)

    def _numbered(self, first_step: int) -> Iterator[tuple[Batch, Position]]:
        """Batches, each with the position after it; accumulation step by accumulation step as accelerate deals batches."""
        config, accelerator = self.config, self.accelerator
        process, num_processes = accelerator.process_index, accelerator.num_processes
        position = START if self.position is None else self.position
        shared = self.documents, self.tokenizer, config, process, num_processes
        told = self.facts, self.labels
        stream = iter(SequenceStream(*shared, position, accelerator.is_main_process, *told))
        examples, collate = self.examples(None), Collate(self.pad_token_id)
        size = config.per_device_train_batch_size
        for step in count(first_step):
            times, seeds = self.drawn.noise(step)
            for micro_step in range(config.gradient_accumulation_steps):
                start = (micro_step * num_processes + process) * size
                batch = []
                for i in range(start, start + size):
                    (ids, label), position = next(stream)
                    draw = Draw(-1, float(times[i]), int(seeds[i]), step * self.window + i)
                    batch.append(examples.noised(ids, draw, label))
                yield collate(batch), position


def make_feed(
    config: TrainingConfig,
    accelerator: Accelerator,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    scheduler: TokenDiffusionScheduler,
    facts: Facts,
    labels: Labels | None = None,
) -> Feed:
    kind = ChatFeed if config.is_chat else StreamedFeed if config.streaming else StoredFeed
    return kind(config, accelerator, corpus, tokenizer, scheduler, facts, labels)
