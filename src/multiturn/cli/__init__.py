"""The command line, one module per verb."""

from __future__ import annotations

import ctypes
import io
import os
import sys

from multiturn.launch import process_count, process_index

__all__ = ["main"]

# glibc's mallopt options.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def main() -> None:
    """The ``multiturn`` command: runs a verb and turns errors into a message and an exit code."""
    # Before torch is imported anywhere: spinning OpenMP threads starve a machine whose cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The progress shown is our own; transformers reports its own loading, saving and file-system findings.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if process_count() > 1:  # every one of them would warn of how DDP goes about its work
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # `module:factory` may name a module beside one's files; last, so that it hides no installed one.
    sys.path.append("")
    _keep_freed_memory()
    _print_what_can_be_printed()
    if process_index() > 0:  # one of several processes prints
        sys.stdout = io.StringIO()

    from multiturn.cli.app import run_app

    code = run_app(sys.argv[1:])
    if code == 0 and process_count() > 1:
        _part()
    sys.exit(code)


def _part() -> None:
    """Leave the group of processes that work together; torch complains where one just ends."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _print_what_can_be_printed() -> None:
    """Show ``?`` for what the terminal's encoding lacks, a minus sign say: no run shall end over that."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _keep_freed_memory() -> None:
    """Let freed memory be used again instead of going back to the system with every activation.

    By default glibc maps and unmaps every large block, and training on a CPU pays for it with some hundred
    thousand page faults a step. Other C libraries have no ``mallopt``; there nothing changes.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            mallopt(_M_TRIM_THRESHOLD, 2**30)
