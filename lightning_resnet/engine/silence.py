"""Hide what Lightning logs and warns of by itself."""

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


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a message is a warning, or comes from a part that the user chose."""
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name in CHOSEN
