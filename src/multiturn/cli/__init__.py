"""The command line, one module per verb."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """The ``multiturn`` command: runs a verb and turns errors into a message and an exit code."""
    # Before torch is imported anywhere: spinning OpenMP threads starve a machine whose cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The progress shown is our own; transformers reports its own loading, saving and file-system findings.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    from multiturn.cli.app import run_app

    sys.exit(run_app(sys.argv[1:]))
