"""resnet-cli sync: upload runs to Weights & Biases from where it can be reached, such as a login node.

What is sent is metrics.jsonl: each step once however often a run was killed, and only what W&B does not have yet.
resnet-cli sync runs/digits_degradation
resnet-cli sync --watch runs
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_resnet.credentials import refuse_secrets
from lightning_resnet.errors import one_line, tell
from lightning_resnet.reading import read_json, read_yaml
from lightning_resnet.runs.status import status
from lightning_resnet.tracking.mirror import MEMORY, Mirror, WandbOptions

PATIENT = {"init_timeout": 60.0, "finish_timeout": 300.0, "finish_timeout_raises": True}  # seconds; nothing waits here
LONGEST_S = 10_000_000  # between two looks: of much more no clock knows


class Uploader:
    """Uploads runs, and keeps those that still grow open between two looks.

    Args:
        folder: for wandb's own files.
        every: seconds between looks; 0: there is only one.
    """

    def __init__(self, folder: Path, every: float = 0.0) -> None:
        self.folder, self.every = folder, every
        self.settings = PATIENT | ({"x_file_stream_transmit_interval": min(max(every, 1.0), 15.0)} if every else {})
        self.open: dict[Path, Mirror] = {}
        self.seen: dict[Path, Any] = {}

    def look(self, runs: Iterable[Path]) -> int:
        """Upload what is new in each run; returns how many could not be."""
        failed = 0
        for run in runs:
            try:
                self._upload(run)
            except Exception as error:  # one run's trouble, of any kind, must not keep the others
                self.open.pop(run, None)
                failed += 1
                tell(f"{run}: not uploaded ({one_line(error)})")
        return failed

    def close(self) -> None:
        """End what is open: these runs are to be continued."""
        for run, mirror in self.open.items():
            mirror.finish(status(run))

    def _upload(self, run: Path) -> None:
        metrics = run / "metrics.jsonl"
        state = status(run)
        stamp = (state, metrics.stat().st_size if metrics.exists() else 0)
        if self.seen.get(run) == stamp:
            return
        config = read_yaml(run / "config.yaml")
        refuse_secrets(config, f"{run}/config.yaml")  # of older versions, or of others
        options = WandbOptions(**(config.get("wandb") or {}))
        if why := _why_not(run, state, options):
            tell(f"{run}: {why}")
        else:
            sent, url = self._send(run, state, options, config)
            tell(f"{run}: {sent} rows sent to {url}")
        self.seen[run] = stamp

    def _send(self, run: Path, state: str, options: WandbOptions, config: dict[str, Any]) -> tuple[int, str]:
        mirror, sent = self.open.pop(run, None), 0
        if mirror is None:
            mirror = Mirror(options)
            meta = read_json(run / "meta.json") or {}
            sent = mirror.open("online", run, meta, config, self.folder, **self.settings)
        url = mirror.run.url
        sent += mirror.catch_up(run)
        if self.every and state == "running":
            self.open[run] = mirror
        else:
            mirror.close(state)
            for file in run.glob("wandb/offline-run-*/*.wandb"):
                file.with_name(f"{file.name}.synced").touch()  # else `wandb sync` would append it all once more
        return sent, url


def _why_not(run: Path, state: str, options: WandbOptions) -> str:
    if options.mode == "disabled":
        return "wandb.mode is disabled, so nothing is sent"
    if state == "running" and (read_json(run / MEMORY) or {}).get("mode") == "online":
        return "sends its rows itself"
    return ""
