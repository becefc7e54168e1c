"""The transformer's configuration, the config.json of its folder."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PreTrainedConfig

from ...diffusion.processes import Process
from ...diffusion.schedules import Schedule, make_schedule
from ...errors import ParameterError

TIME_CONDITIONINGS = ("none", "t", "sigma", "zero")
MLPS = ("swiglu", "gelu")
SCHEDULE_OPTIONS = ("alpha_schedule", "eps", "sigma_min", "sigma_max")


class TokenDiffusionConfig(PreTrainedConfig):
    """Sizes of the network, and how it is told the time.

    Args:
        time_conditioning: "none"; "t", the time itself (GIDD); "sigma", -ln alpha(t) (UDLM), for which alpha_schedule, eps,
            sigma_min and sigma_max are those of the folder's scheduler; or "zero", adaptive norms that are always told 0 (MDLM).
        cond_dim: width of the embedded time.
        max_frequency: radians a unit of time of the fastest time feature; the slowest has a ten-thousandth of it, as in DiT.
        gate_offset: a residual branch is multiplied by this and what the condition adds to it: 1, as before training here, or
            0, as in DiT.
        num_classes: of labels; 0 for none. Their embedding, and one of "no label", is added to that of the time.
        mlp: "swiglu", without biases, or "gelu", the tanh kind, with them. head_bias: whether the vocabulary head has one.
        causal_block_size: where given, a position sees its own block of so many positions, counted from the first, and
            those before it, not those after it (BD3-LM, arXiv 2503.09573).
        dropout: in training, on attention weights and on what each residual branch adds.
    """

    model_type = "token-diffusion"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 2048
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    dropout: float = 0.0
    initializer_range: float = 0.02
    time_conditioning: Literal["none", "t", "sigma", "zero"] = "none"
    cond_dim: int = 128
    max_frequency: float = 100.0
    gate_offset: float = 1.0
    num_classes: int = 0
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    head_bias: bool = False
    causal_block_size: int | None = None
    alpha_schedule: str = "log_linear"
    eps: float = 1e-3
    sigma_min: float = 1e-4
    sigma_max: float = 20.0
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.time_conditioning not in TIME_CONDITIONINGS:
            raise ParameterError(
                "time_conditioning", f"be one of {', '.join(TIME_CONDITIONINGS)}", self.time_conditioning
            )
        if self.mlp not in MLPS:
            raise ParameterError("mlp", f"be one of {', '.join(MLPS)}", self.mlp)
        if self.num_classes < 0 or (self.num_classes and not self.adaptive):
            raise ParameterError("num_classes", "be >= 0, and 0 where time_conditioning is none", self.num_classes)
        if self.causal_block_size is not None and self.causal_block_size < 1:
            raise ParameterError("causal_block_size", "be >= 1", self.causal_block_size)
        if self.hidden_size % (2 * self.num_attention_heads):
            rule = f"be a multiple of 2 * num_attention_heads = {2 * self.num_attention_heads}"
            raise ParameterError("hidden_size", rule, self.hidden_size)
        self.schedule()

    def schedule(self) -> Schedule:
        """alpha(t), from which "sigma" is taken. Raises `ParameterError` for a parameter outside its range."""
        return make_schedule(self.alpha_schedule, eps=self.eps, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def check_process(self, process: Process) -> None:
        """Raises `ParameterError` if the sigma that the network is told is not that of `process`."""
        if self.time_conditioning != "sigma":
            return
        schedule = getattr(process, "schedule", None)
        if schedule is None:
            rule = f"be none or t for the {process.name} process, which has no alpha schedule"
            raise ParameterError("time_conditioning", rule, self.time_conditioning)
        if schedule != self.schedule():
            rule = f"be the scheduler's {schedule} in the config of a network that is told sigma"
            raise ParameterError("alpha_schedule", rule, self.schedule())

    @property
    def adaptive(self) -> bool:
        """Whether norms and residuals follow a condition: the time, a label."""
        return self.time_conditioning != "none"
