"""What ends a run that had begun."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step. `exit_code` is the shell's."""

    exit_code = 1


class Stopped(TrainingError):
    """A signal ended the run, which has saved a checkpoint to resume from; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def in_one_line(error: Exception) -> str:
    """What an error says, or else what it is."""
    return " ".join(str(error).split()) or type(error).__name__
