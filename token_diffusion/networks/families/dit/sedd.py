"""SEDD (arXiv 2310.16834): `louaaron/sedd-small` and `sedd-medium`, an absorbing DiT over GPT-2's tokens that is told sigma.

Its output at a mask is the log of the score s_y = p(y there) / p(mask there), for each token y but the mask; with an exact score
that is theta_y / expm1(sigma), theta the distribution of the clean token. What the network adds to its last layer, and takes off
for `scale_by_sigma`, is the same for all y, so that theta is the softmax of that layer's logits without the mask: the weights
are read as they are. Let S be the sum of all s_y, and c = expm1(sigma) S, which is 1 for an exact score. Then

    their steps ("analytic" and "euler") and their last one    ours
    given that a mask leaves, it becomes y by s_y / S          by theta_y, which is that: exactly the same
    what is no mask stays                                      the same
    analytic, sigma to sigma': leaves with                     leaves with (alpha' - alpha) / (1 - alpha), without c
        expm1(sigma - sigma') S = c (alpha' - alpha) / (1 - alpha)
    their loss                                                 the NELBO of theta, which is that less rate (c - 1 - ln c) >= 0

So what is sampled differs in one thing: how many masks leave at a time is the schedule's, not what the network has learnt of it.
(With "geometric" noise sigma starts at sigma_min there and at 0 here: the network is told the sigma that the tokens were noised
with, whichever t that is.)

Scores of uniform noise give no theta: it would be (s_y / S - (1 - alpha) / N) / alpha, and nothing that is learnt keeps that
from being negative.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from ....diffusion.values import check_int
from ....errors import ParameterError
from ..published import Published
from . import layout

SIZES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "n_blocks",
    "num_attention_heads": "n_heads",
    "cond_dim": "cond_dim",
    "max_position_embeddings": "length",
    "dropout": "dropout",
}
"""Our names and theirs; the vocabulary's stands apart."""
NOISES = {"loglinear": "log_linear", "geometric": "geometric"}


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    graph, noise, model = (config.get(part) for part in ("graph", "noise", "model"))
    if not (isinstance(graph, Mapping) and isinstance(noise, Mapping) and isinstance(model, Mapping)):
        return None
    if graph["type"] != "absorb":
        rule = "be absorb: scores of uniform noise are not always a distribution of the clean token"
        raise ParameterError("graph.type", rule, graph["type"])
    if noise["type"] not in NOISES:
        raise ParameterError("noise.type", f"be {' or '.join(NOISES)}", noise["type"])
    schedule: dict[str, Any] = {"alpha_schedule": NOISES[noise["type"]]}
    if noise["type"] == "geometric":
        schedule |= {"sigma_min": noise["sigma_min"], "sigma_max": noise["sigma_max"]}
    check_int("tokens", tokens := config["tokens"], 1)
    network = layout.from_sizes(model, SIZES, "model.", vocab_size=tokens + 1, time_conditioning="sigma", **schedule)
    return Published(
        "sedd",
        network,
        partial(layout.weights, prefix=""),
        scheduler={
            "vocab_size": tokens + 1,
            "mask_token_id": tokens,
            "forward_process": "absorbing",
            **schedule,
        },
        learnt=("eos",),
        tokenizer="gpt2",
        tokenizer_size=tokens,
    )
