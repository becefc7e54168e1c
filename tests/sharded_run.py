"""`torchrun tests/sharded_run.py COMMAND [flags]`: the trainer with its weights sharded (FSDP2) over CPU processes.

accelerate shards on GPUs alone, while PyTorch can do it anywhere; so what its launcher says of FSDP is put in place here.
"""

from __future__ import annotations

import sys

from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin

import trainer.run.train
from trainer.__main__ import main
from trainer.accelerator import make_accelerator
from trainer.config import TrainingConfig


def sharded(config: TrainingConfig) -> Accelerator:
    accelerator = make_accelerator(config)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.fsdp_plugin = plugin
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    assert accelerator.is_fsdp2
    return accelerator


if __name__ == "__main__":
    trainer.run.train.make_accelerator = sharded
    sys.exit(main(sys.argv[1:]))
