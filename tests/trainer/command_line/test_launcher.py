"""What accelerate launch was asked for is followed, or refused in one line; a flag and the launcher never disagree in silence."""

from __future__ import annotations

from typing import Any

import pytest

from token_diffusion.errors import ParameterError
from trainer.__main__ import parse
from trainer.command_line import launched

# What `accelerate launch -m trainer …` itself sets where nothing was asked for.
PLAIN = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
}
TRAIN = ["mdlm", "--train_file", "a"]
EVALUATE = ["evaluate", "--checkpoint_path", "a", "--num_samples", "1"]


def launch(arguments: list[str], **variables: str) -> tuple[Any, list[str]]:
    command, *flags = arguments
    return launched(
        parse(command, flags), {**PLAIN, **{f"ACCELERATE_{name}": value for name, value in variables.items()}}
    )


def test_a_plain_launch_changes_nothing() -> None:
    for arguments in (TRAIN, [*TRAIN, "--bf16"], EVALUATE):
        config, more = launch(arguments)
        assert config == parse(arguments[0], arguments[1:]) and more == []


def test_what_was_asked_for_is_what_the_flag_would_be() -> None:
    """And is told as that flag: the command in the card makes the same run without the launcher's configuration."""
    asked = {"MIXED_PRECISION": "bf16", "GRADIENT_ACCUMULATION_STEPS": "4", "DYNAMO_BACKEND": "INDUCTOR"}
    config, more = launch(TRAIN, **asked)
    assert (config.mixed_precision, config.gradient_accumulation_steps, config.torch_compile) == ("bf16", 4, True)
    assert parse(TRAIN[0], [*TRAIN[1:], *more]) == config
    measured, _ = launch(EVALUATE, MIXED_PRECISION="bf16", GRADIENT_ACCUMULATION_STEPS="4")
    assert measured.mixed_precision == "bf16"
    agreed, more = launch([*TRAIN, "--bf16"], MIXED_PRECISION="bf16")
    assert agreed.mixed_precision == "bf16" and more == []


@pytest.mark.parametrize(
    ("arguments", "variables", "problem"),
    [
        (
            [*TRAIN, "--mixed_precision", "fp16"],
            {"MIXED_PRECISION": "bf16"},
            "mixed_precision must be left out, or 'bf16' as accelerate launch was asked for, got 'fp16'",
        ),
        (
            [*TRAIN, "--mixed_precision", "no"],
            {"MIXED_PRECISION": "bf16"},
            "mixed_precision must be left out, or 'bf16' as accelerate launch was asked for, got 'no'",
        ),
        (
            [*TRAIN, "--gradient_accumulation_steps", "2"],
            {"GRADIENT_ACCUMULATION_STEPS": "4"},
            "gradient_accumulation_steps must be left out, or 4 as accelerate launch was asked for, got 2",
        ),
        (
            TRAIN,
            {"MIXED_PRECISION": "fp8"},
            "mixed_precision must be no, fp16 or bf16 in accelerate launch and its config file, got 'fp8'",
        ),
        (
            TRAIN,
            {"DYNAMO_BACKEND": "EAGER"},
            "dynamo_backend must be no or inductor in accelerate launch and its config file, got 'eager'",
        ),
        (
            EVALUATE,
            {"DYNAMO_BACKEND": "INDUCTOR"},
            "dynamo_backend must be left out of accelerate launch and its config file, got 'INDUCTOR'",
        ),
        (
            TRAIN,
            {"DYNAMO_USE_FULLGRAPH": "True"},
            "dynamo_use_fullgraph must be left out of accelerate launch and its config file, got 'True'",
        ),
        (
            TRAIN,
            {"USE_MEGATRON_LM": "true"},
            "use_megatron_lm must be left out of accelerate launch and its config file, got 'true'",
        ),
        (
            TRAIN,
            {"GRADIENT_ACCUMULATION_STEPS": "auto"},
            "gradient_accumulation_steps must be a number in accelerate launch and its config file, got 'auto'",
        ),
    ],
)
def test_what_is_not_followed_is_refused(arguments: list[str], variables: dict[str, str], problem: str) -> None:
    with pytest.raises(ParameterError) as refused:
        launch(arguments, **variables)
    assert str(refused.value) == problem
