"""Settings of every test: tiny tensors gain nothing from threads, and two cores lose much to their waiting."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
