"""Where the ranks of a training find one another.

On one machine nothing of it can be reached from the network: ranks that `launch.supervise` started meet in a file of a
folder that no other user can enter, those that srun started at a port of the loopback interface, and gloo and NCCL
listen on that interface too. Under torchrun the meeting point is torchrun's own. Ranks on several machines meet at a
port of the first one's, which asks nobody for a password: see docs/cluster.md.
"""

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.ddp import _init_dist_connection
from torch import distributed as dist

from lightning_resnet.engine.launch import MEETING, Place
from lightning_resnet.errors import UserError

LOOPBACK = "127.0.0.1"


class Ranks(DDPStrategy):
    """Lightning's strategy, whose ranks meet as this file says.

    Args:
        here: this process among all.
        **kwargs: of DDPStrategy.
    """

    def __init__(self, here: Place, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.here = here

    def setup_distributed(self) -> None:
        """Lightning's, with a meeting point of ours."""
        if dist.is_initialized():  # by the training, before its test
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        options: dict[str, Any] = {"timeout": self._timeout}
        if self.root_device.type != "cpu":
            options["device_id"] = self.root_device
        if self.here.nodes == 1:
            listen_on_loopback()
        if (store := meeting_point(self.here, self._timeout)) is not None:
            options["store"] = store
        _init_dist_connection(self.cluster_environment, self._process_group_backend, **options)


def listen_on_loopback() -> None:
    """Keep gloo and NCCL from the network: by themselves they listen where the host's name leads."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if names:
            os.environ[variable] = names[0]


def meeting_point(here: Place, timeout: timedelta) -> dist.Store | None:
    """The store through which the ranks exchange their addresses; None: torch opens it by the environment.

    Raises:
        UserError: another program has the port.
    """
    if folder := os.environ.get(MEETING):
        store = dist.FileStore(str(Path(folder, "store")), here.local_size)
        store.set_timeout(
            timeout
        )  # its own are 5 minutes, which ranks that import from a slow disk may lie apart
        return store
    torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if here.nodes > 1 or torchruns:
        return None
    port = int(os.environ["MASTER_PORT"])
    if here.rank:
        return dist.TCPStore(LOOPBACK, port, here.local_size, False, timeout)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError as e:
        raise UserError(
            f"port {port} of this machine is in use ({e.strerror}): export another MASTER_PORT"
        ) from e
    listening.listen()
    fd = listening.detach()
    return dist.TCPStore(LOOPBACK, port, here.local_size, True, timeout, master_listen_fd=fd)
