"""`python -m clients` in a checkout: the command line of `token_diffusion_client`, installed or not."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from token_diffusion_client.__main__ import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m clients"))
