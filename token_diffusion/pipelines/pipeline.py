"""TokenDiffusionPipeline: a checkpoint folder as a pipeline of diffusers, around the one sampler code."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from ..checkpoint import load_checkpoint, max_positions, save_checkpoint
from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError
from ..facts import UNKNOWN, Facts
from ..networks.denoiser import Denoiser, MaskedLMDenoiser
from ..networks.weights.hub import local_folder, tokenizer_folder
from ..samplers.parameters import SamplingParameters, default_seq_len
from ..sampling import evaluating
from ..text import check_stops, encode, ending
from .folder import HUB_ARGUMENTS, check_place, push
from .inputs import check_callback, check_given, check_returned, open_canvas, seeds_of, tensor_inputs, token_lists
from .output import TokenDiffusionPipelineOutput, as_output, stacked
from .parts import DTYPES, PARTS, check_parts
from .requests import Requests


class TokenDiffusionPipeline(DiffusionPipeline):
    """Text from an absorbing (MDLM), uniform (UDLM) or hybrid (GIDD) model, at once or block by block.

    The process is the scheduler's, and `block_size` makes it block-wise, so one class stands where the seed had three. It
    drives the batch that `sample`, the shell and the server drive: the same seed gives the same tokens.

        pipe = TokenDiffusionPipeline.from_pretrained("checkpoints/mdlm-english").to("cuda")
        pipe("Once upon a time", seq_len=64, num_samples=4, seed=0).texts

    Args:
        model: a masked LM of transformers. scheduler: of its width. tokenizer: None where only tokens go in and out.
        facts: the frame of its training sequences, and what of them may be in a sample; None where nothing is known.

    Raises:
        ParameterError: the parts do not fit each other.
    """

    model_cpu_offload_seq = "model"
    _optional_components: ClassVar[list[str]] = ["tokenizer", "facts"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["sample"]

    def __init__(
        self, model: Any, scheduler: TokenDiffusionScheduler, tokenizer: Any = None, facts: Facts | None = None
    ) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler, tokenizer=tokenizer, facts=facts)
        self._denoiser: tuple[list[Any], Denoiser] | None = None
        self._card: str | None = None
        self._num_timesteps, self._interrupt = 0, False
        self._check_parts()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """A folder that the trainer, one of the seed's scripts or `save_pretrained` wrote; no code in it is run.

        The parts lie side by side in it, or in the subfolders that a `model_index.json` stands beside, or in a repository of
        either kind on the hub.

        Args:
            dtype (torch_dtype): of the weights, torch.float32 by default, torch.float16 or torch.bfloat16.
            device_map: a device to load onto. model, scheduler, tokenizer, facts: in the place of the folder's.
            cache_dir, force_download, local_files_only, revision, token: for the hub.
            tokenizer_name: folder or repository of the tokenizer, if it is not the folder's own.

        Raises:
            ParameterError: not such a folder, its parts do not fit each other, or an argument is not one of these.
        """
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        parts = {name: kwargs.pop(name) for name in PARTS if name in kwargs}
        wanted = kwargs.pop("torch_dtype", None)
        wanted = kwargs.pop("dtype", wanted) or torch.float32
        dtype = next((name for known, name in DTYPES.items() if wanted in (known, name)), None)
        if dtype is None:
            raise ParameterError("dtype", f"be one of {', '.join(map(str, DTYPES))}", wanted)
        device = kwargs.pop("device_map", None) or "cpu"
        words = tokenizer_folder(kwargs.pop("tokenizer_name", None))
        for name, value in kwargs.items():
            raise ParameterError(name, "be an argument of TokenDiffusionPipeline.from_pretrained", value)
        folder = local_folder("pretrained_model_name_or_path", pretrained_model_name_or_path, **hub)
        checkpoint = load_checkpoint(folder, device=str(device), dtype=dtype, tokenizer_name=words)
        own = {name: getattr(checkpoint, name) for name in PARTS}
        pipe = cls(**(own | parts))
        if not parts:
            pipe._denoiser = (pipe._parts, checkpoint.denoiser)
        card = folder / "README.md"
        pipe._card = card.read_text("utf-8") if card.is_file() else None
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipe

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes the flat folder that the shell, the server and `AutoModelForMaskedLM` read, whole or not at all.

        A checkpoint that was there is replaced. The model card of the folder that the pipeline came from goes along.

        Args:
            push_to_hub: then upload it, with `repo_id`, `token`, `private`, `commit_message`, `create_pr` (`push`).

        Raises:
            ParameterError: the folder holds something that is no checkpoint, or the pipeline has no tokenizer.
        """
        rules = {"safe_serialization": (safe_serialization, True), "variant": (variant, None)}
        for name, (value, needed) in (rules | {"max_shard_size": (max_shard_size, None)}).items():
            if value != needed:
                raise ParameterError(name, f"be {needed}: the folder holds one model.safetensors", value)
        folder = Path(save_directory)
        if self.tokenizer is None:
            raise ParameterError("tokenizer", "be there to be saved", None)
        check_place(folder)
        facts = self.facts if self.facts is not None and self.facts.known else None
        save_checkpoint(folder, self.model, self.tokenizer, self.scheduler, facts=facts, card=self._card)
        if push_to_hub:
            push(folder, **kwargs)

    @property
    def num_timesteps(self) -> int:
        """Grid steps of the last call, those that change nothing included: the bound of `step` in a callback."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` in a callback, and the call ends with the tokens that there are, masks among them."""
        return self._interrupt

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        template: str | list[str] | None = None,
        *,
        tokens: Any = None,
        seq_len: int | None = None,
        num_samples: int = 1,
        num_inference_steps: int | None = 128,
        block_size: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        label: int | None = None,
        sampler: str = "ancestral",
        guidance_scale: float = 1.0,
        suppress_end: bool = False,
        early_end: bool = False,
        logprobs: bool = False,
        stop: str | Sequence[str] = (),
        seed: int | list[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        inject_start_token: bool = False,
        output_type: str = "text",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        **options: Any,
    ) -> Any:
        """Draws sequences, those of all prompts in one batch.

        Args:
            prompt: a fixed prefix, or a list of them, of any lengths. template: text whose `[MASK]` holes are filled in, or a
                list. tokens: ids, the frame's too, [L], [B, L] or lists, -1 where the sampler fills in. Without any of them, one
                sequence that is all open.
            seq_len: tokens in all; by default 64, or the model's positions if fewer; for templates each its own length.
            num_samples: sequences drawn of each prompt.
            num_inference_steps: grid steps, of each block; None (absorbing alone) is the continuous-time limit.
            block_size: fill blocks of so many tokens from left to right; None is the whole sequence at once, or the blocks of a
                block-causal model, which takes no others.
            temperature, top_p, top_k, min_p: shape each token's distribution; the defaults leave it as it is.
            label, sampler, guidance_scale, suppress_end, early_end: as in `sample`; options: what is asked of the sampler alone.
            logprobs: the output has them, too.
            stop: a string, or several, that end a text where they were drawn; its tokens stay whole.
            seed: as in `sample`; a list has one for each prompt, and one seed is every prompt's: a prompt's tokens do not
                depend on those beside it.
            generator: draws a seed for each prompt, or one for each prompt draws its; without seed and generator torch's own
                draws them. The output's `seeds` says which.
            inject_start_token: begin with the tokenizer's [CLS] or BOS token.
            output_type: "text", or "tokens" (lists), "pt" or "np" without texts.
            return_dict: False gives the tuple `(sequences, texts)`.
            callback_on_step_end: called `(pipe, step, timestep, callback_kwargs)` after each network evaluation, so not for
                steps that change nothing. step: the index, from 0, of the grid step done, of the sequence that has the most
                before it; it rises, with gaps, to `num_timesteps - 1`. timestep: the time in (0, 1] at its start (without a
                grid the time reached). It may set `pipe._interrupt`, but cannot change tokens: they are a function of the
                seed, and a changed `sample` is refused.
            callback_on_step_end_tensor_inputs: ["sample"]: int64 [N, L], the tokens so far.

        Returns:
            `TokenDiffusionPipelineOutput`, or the tuple.

        Raises:
            ParameterError: an argument is outside its range, or a callback changed what it was given.
            FloatingPointError: the network's logits hold no distribution.
        """
        names = tensor_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        self.check_inputs(prompt, template, tokens, output_type, callback_on_step_end, names)
        stop = check_stops(stop)
        canvases = self._canvases(prompt, template, tokens, seq_len, inject_start_token)
        asked = {
            "num_samples": num_samples, "num_inference_steps": num_inference_steps, "block_size": block_size,
            "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "label": label,
            "sampler": sampler, "options": options, "logprobs": logprobs, "guidance_scale": guidance_scale,
            "suppress_end": suppress_end, "early_end": early_end,
        }  # fmt: skip
        parameters = self._parameters(canvases, asked, seed, generator)
        requests = self._run(list(zip(canvases, parameters, strict=True)), callback_on_step_end, names)
        sequences, texts = as_output(requests.states, self._padding, output_type), None
        if output_type == "text":
            end = partial(ending, self.tokenizer, stop=stop, facts=self.facts or UNKNOWN)
            states = zip(canvases, requests.states, strict=True)
            texts = [end(row, canvas).text for canvas, state in states for row in state.tolist()]
        if not return_dict:
            return sequences, texts
        told = as_output(requests.logprobs, math.nan, output_type) if logprobs else None
        return TokenDiffusionPipelineOutput(sequences, texts, [each.seed for each in parameters], requests.nfe, told)

    def _parameters(
        self, canvases: Sequence[Sequence[int]], asked: Mapping[str, Any], seed: Any, generator: Any
    ) -> list[SamplingParameters]:
        """Those of each prompt; its seed comes last, for a generator moves on by it."""
        frame = (self.facts or UNKNOWN).frame
        framed = {**asked, "frame": (len(frame.prefix), len(frame.suffix))}
        same = [SamplingParameters(len(canvas), **framed) for canvas in canvases]
        return [replace(each, seed=own) for each, own in zip(same, seeds_of(seed, generator, len(same)), strict=True)]

    def _run(
        self, together: Sequence[tuple[Sequence[int], SamplingParameters]], callback: Any, names: Sequence[str]
    ) -> Requests:
        """All of them in one batch, to their ends or to the callback's interrupt."""
        self._interrupt = False
        with evaluating(self.model):
            requests = Requests(self._denoise(), self.scheduler, together, self._execution_device)
            self._num_timesteps = requests.total
            with self.progress_bar(total=requests.total) as bar:
                while not requests.finished and not self._interrupt:
                    before = requests.done
                    requests.step()
                    bar.update(requests.done - before)
                    if callback is not None and requests.total:
                        self._call_back(callback, names, requests)
        self.maybe_free_model_hooks()
        return requests

    def check_inputs(
        self, prompt: Any, template: Any, tokens: Any, output_type: Any, callback: Any, callback_inputs: Any
    ) -> None:
        """Raises `ParameterError` for parts that do not fit, and for what is no text, no known output or no callback."""
        self._check_parts()
        check_given(
            {"prompt": prompt, "template": template, "tokens": tokens}, output_type, self.tokenizer is not None
        )
        check_callback(callback, callback_inputs, self._callback_tensor_inputs)

    def _check_parts(self) -> None:
        """Raises `ParameterError` if they do not fit each other; any of them may have been replaced since the last call."""
        check_parts(self.model, self.scheduler, self.tokenizer)

    def _canvases(
        self, prompt: Any, template: Any, tokens: Any, seq_len: int | None, inject_start_token: bool
    ) -> list[list[int]]:
        """The initial tokens of each prompt, `OPEN` where the sampler fills in."""
        if seq_len is None and template is None and tokens is None:
            seq_len = default_seq_len(max_positions(self.model))
        if seq_len is not None:
            SamplingParameters(seq_len)  # its own error, not one about a text that does not fit
            self._check_seq_len(seq_len)
        if inject_start_token and (tokens is not None or self.tokenizer is None):
            raise ParameterError("inject_start_token", "be off where tokens are given or there is no tokenizer", True)
        frame = (self.facts or UNKNOWN).frame
        if tokens is not None:
            canvases = token_lists(tokens, seq_len)
        elif self.tokenizer is None:
            canvases = [open_canvas(frame, seq_len or 0)]
        else:
            name, texts = ("prompt", prompt) if template is None else ("template", template)
            how: dict[str, Any] = {"seq_len": seq_len, "inject_start_token": inject_start_token, "frame": frame}
            texts = texts if isinstance(texts, list) else [texts]
            canvases = [encode(self.tokenizer, **{name: text}, **how) for text in texts]
        self._check_seq_len(max(map(len, canvases)))
        return canvases

    def _check_seq_len(self, seq_len: int) -> None:
        most = max_positions(self.model)
        if most is not None and seq_len > most:
            raise ParameterError("seq_len", f"be at most {most}, the positions of the model", seq_len)

    @property
    def _padding(self) -> int:
        own = getattr(self.tokenizer, "pad_token_id", None)
        return self.scheduler.config.mask_token_id if own is None else own

    @property
    def _parts(self) -> list[Any]:
        return [getattr(self, name) for name in PARTS]

    def _denoise(self) -> Denoiser:
        """The model as a denoiser of what samples may hold, made once for the parts that there are."""
        made_for = [] if self._denoiser is None else self._denoiser[0]
        if self._denoiser is None or any(one is not other for one, other in zip(made_for, self._parts, strict=True)):
            vocab_size, facts = self.scheduler.config.vocab_size, self.facts or UNKNOWN
            known = self.tokenizer is not None
            forbidden = facts.forbidden(self.tokenizer, vocab_size) if known else ()
            ends = facts.ends(self.tokenizer) if known else ()
            self._denoiser = (self._parts, MaskedLMDenoiser(self.model, forbidden, ends))
        return self._denoiser[1]

    def _call_back(self, callback: Any, names: Sequence[str], requests: Requests) -> None:
        sample = stacked(requests.states, self._padding)
        given = {name: sample.clone() for name in names}
        check_returned(callback(self, requests.done - 1, requests.t, dict(given)), given, sample)
