"""Hide what Lightning and torch log and warn of by themselves."""

import logging
import warnings
from pathlib import Path

CHOSEN = ("callbacks", "loggers", "profilers")  # parts of Lightning that a recipe names


def silence_lightning() -> None:
    """Hide Lightning's greetings, and warnings of code inside Lightning: no user can act on them.

    Messages of callbacks, loggers and profilers are shown, because the user chose these.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in CHOSEN:
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.INFO)
    # all of Lightning logs through this one
    common = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    common.setLevel(logging.INFO)
    common.addFilter(_is_shown)
    # what needs no GPU, or is told to use none, builds its trainer for the CPU
    warnings.filterwarnings("ignore", "GPU available but not used")
    # Lightning takes a login node, where srun is installed, for a job
    warnings.filterwarnings("ignore", "The `srun` command is available")
    # the run's own checkpoints are in that folder
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")
    # a build of torch for CPUs says so when it compiles where CUDA's compiler is installed
    logging.getLogger("torch.utils.cpp_extension").addFilter(_is_no_word_of_cuda)


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a message is a warning, or comes from a part that the user chose."""
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name in CHOSEN


def _is_no_word_of_cuda(record: logging.LogRecord) -> bool:
    """Return whether a message is another than that a folder of CUDA's is found, and no GPU."""
    return "No CUDA runtime is found" not in str(record.msg)
