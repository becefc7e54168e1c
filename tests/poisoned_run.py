"""`torchrun tests/poisoned_run.py COMMAND [flags]`: the trainer, with an infinite gradient in one process, at its third step.

With SHARDED in the environment its weights are, as in `sharded_run.py`.
"""

from __future__ import annotations

import math
import os
import sys

from torch import Tensor
from torch.distributed.tensor import DTensor

import trainer.run.train
from tests.sharded_run import sharded
from trainer.__main__ import main
from trainer.run.learner import Learner

clip = Learner._clip


def poisoned(learner: Learner) -> Tensor:
    if learner.lr_scheduler.last_epoch == 2 and learner.accelerator.process_index == 1:
        gradient = next(parameter.grad for parameter in learner.model.parameters() if parameter.grad is not None)
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).fill_(math.inf)
    return clip(learner)


if __name__ == "__main__":
    setattr(Learner, "_clip", poisoned)  # noqa: B010
    if "SHARDED" in os.environ:
        trainer.run.train.make_accelerator = sharded
    sys.exit(main(sys.argv[1:]))
