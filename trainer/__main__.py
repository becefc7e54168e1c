"""`python -m trainer COMMAND [flags]`: the shell's door. Each mistake is one line on stderr; exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from .command_line import CommandLine, describe, launched, read, spelled
from .config import HybridConfig, MDLMConfig, SFTConfig, TokenizerConfig, TrainingConfig, UDLMConfig
from .evaluation.evaluate_config import EvaluateConfig

COMMANDS: dict[str, type[CommandLine]] = {
    "mdlm": MDLMConfig,
    "udlm": UDLMConfig,
    "hybrid": HybridConfig,
    "sft": SFTConfig,
    "tokenizer": TokenizerConfig,
    "evaluate": EvaluateConfig,
}

HELP = """usage: python -m trainer COMMAND [flags]    (or: accelerate launch -m trainer COMMAND [flags])

{commands}

`python -m trainer COMMAND --help` lists a command's flags. From text to a model that serves:
  python -m trainer tokenizer --train_file input.txt --vocab_size 1024 --output_dir tokenizer
  python -m trainer mdlm --train_file input.txt --packing --validation_split_percentage 10 \\
      --config_name bert --tokenizer_name tokenizer --output_dir mdlm-output --max_train_steps 1000 \\
      --config_overrides hidden_size=256,num_hidden_layers=4,num_attention_heads=4,intermediate_size=1024
  python -m trainer evaluate --checkpoint_path mdlm-output/final --validation_file other.txt --packing"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code: 0, 1 (training failed), 2 (a mistake in what was asked) or 128 + signal."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(commands=_summary()))
        return 0 if arguments else 2
    command, *flags = arguments
    if command not in COMMANDS:
        print(f"command must be one of {', '.join(COMMANDS)}, got {command!r}", file=sys.stderr)
        return 2
    settings = COMMANDS[command]
    try:
        flags = spelled(settings, flags)
        config, more = launched(read(settings, command, flags))
        return _runner(command)(config, [*flags, *more])
    except ValidationError as error:
        problems = [describe(problem) for problem in error.errors()]
    except SettingsError as error:
        problems = [str(error).removeprefix("error parsing CLI: ")]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        from token_diffusion.errors import ParameterError

        if not isinstance(error, ParameterError):
            raise
        problems = [str(error)]
    for problem in problems:
        print(" ".join(problem.split()), file=sys.stderr)
    return 2


def parse(command: str, flags: Sequence[str]) -> CommandLine:
    """The command's settings from its flags. Raises `ValidationError`, `SettingsError` or `ParameterError`."""
    settings = COMMANDS[command]
    return read(settings, command, spelled(settings, flags))


def _summary() -> str:
    return "\n".join(f"  {name:<10} {settings.__doc__}" for name, settings in COMMANDS.items())


def _runner(command: str) -> Callable[[Any, Sequence[str]], int]:
    """The command's work. What it needs is imported here, so that help and mistakes in flags answer at once."""
    from token_diffusion.networks.cpu.memory import prepare

    prepare()
    if command == "tokenizer":
        from .data.tokenizer import train_tokenizer

        def run_tokenizer(config: TokenizerConfig, flags: Sequence[str]) -> int:
            size = train_tokenizer(config)
            print(f"{config.output_dir}: {size} tokens")
            return 0

        return run_tokenizer

    from token_diffusion.networks.cpu.threads import set_threads

    set_threads()
    if command == "evaluate":
        from .evaluation.evaluate import evaluate_folder

        def run_evaluation(config: EvaluateConfig, flags: Sequence[str]) -> int:
            figures = evaluate_folder(config)
            if figures is not None:
                print(json.dumps(figures))
            return 0

        return run_evaluation

    from .run.train import TrainingError, train

    def run_training(config: TrainingConfig, flags: Sequence[str]) -> int:
        try:
            train(config, [command, *flags])
        except TrainingError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        return 0

    return run_training


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
