"""Upload runs to Weights & Biases from a machine that can reach the server, such as a login node.

The rows of metrics.jsonl are sent: each step once, however often a run was killed, and only rows
that W&B does not have yet.
resnet-cli sync runs/digits_degradation
resnet-cli sync --watch runs
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_resnet.credentials import refuse_secrets
from lightning_resnet.errors import one_line, tell
from lightning_resnet.reading import read_json
from lightning_resnet.runs.index import Index
from lightning_resnet.runs.reader import Run
from lightning_resnet.tracking.mirror import MEMORY, Mirror, WandbOptions

# Settings of wandb: long timeouts in seconds, because no training waits here.
PATIENT = {"init_timeout": 60.0, "finish_timeout": 300.0, "finish_timeout_raises": True}
LONGEST_S = 10_000_000  # seconds between two uploads; time.sleep refuses much more


class Uploader:
    """Uploader of runs, which keeps running runs open between two uploads.

    Args:
        folder: folder for wandb's own files.
        every: seconds between uploads; 0: there is only one.
    """

    def __init__(self, folder: Path, every: float = 0.0) -> None:
        self.folder = folder
        self.every = every
        self.settings: dict[str, Any] = dict(PATIENT)
        if every:
            self.settings["x_file_stream_transmit_interval"] = min(max(every, 1.0), 15.0)
        self.open: dict[Path, Mirror] = {}
        self._uploaded: dict[Path, Any] = {}  # state and size of each run at its last upload

    def upload(self, runs: Iterable[Path]) -> int:
        """Upload the new rows of each run, and return the number of runs that failed."""
        failed = 0
        with Index() as index:
            for run in runs:
                try:
                    self._upload(run, index)
                except Exception as error:  # an error of one run must not keep the others
                    self.open.pop(run, None)
                    failed += 1
                    tell(f"{run}: not uploaded ({one_line(error)})")
        return failed

    def close(self) -> None:
        """Close the open runs; they can be continued later."""
        for run, mirror in self.open.items():
            mirror.finish(Run(run).status())

    def _upload(self, run: Path, index: Index) -> None:
        """Upload the new rows of a run, and print what was done."""
        reader = Run(run)
        rows = reader.rows_file
        state = index.facts(run, details=False).status
        stamp = (state, rows.stat().st_size if rows.exists() else 0)
        if self._uploaded.get(run) == stamp:
            return
        config = reader.config()
        # Older versions, or other programs, may have written secrets.
        refuse_secrets(config, str(reader.config_file))
        options = WandbOptions(**(config.get("wandb") or {}))
        if why := _why_not(run, state, options):
            tell(f"{run}: {why}")
        else:
            sent, url = self._send(run, state, options, config)
            tell(f"{run}: {sent} rows sent to {url}")
        self._uploaded[run] = stamp

    def _send(
        self, run: Path, state: str, options: WandbOptions, config: dict[str, Any]
    ) -> tuple[int, str]:
        """Send the new rows of a run; return their number and the address of the W&B run."""
        sent = 0
        mirror = self.open.pop(run, None)
        if mirror is None:
            mirror = Mirror(options)
            sent = mirror.open("online", run, Run(run).meta(), config, self.folder, **self.settings)
        url = mirror.run.url
        sent += mirror.catch_up(run)
        if self.every and state == "running":
            self.open[run] = mirror
        else:
            mirror.close(state)
            for file in run.glob("wandb/offline-run-*/*.wandb"):
                # Without this mark `wandb sync` would append all rows once more.
                file.with_name(f"{file.name}.synced").touch()
        return sent, url


def _why_not(run: Path, state: str, options: WandbOptions) -> str:
    """Return the reason why a run is not to be uploaded; empty if it is."""
    if options.mode == "disabled":
        return (
            f"wandb.mode is disabled, so nothing is sent: write `mode: auto` under `wandb:` in "
            f"{Run(run).config_file} to send it"
        )
    if state == "running" and (read_json(run / MEMORY) or {}).get("mode") == "online":
        return "sends its rows itself"
    return ""
