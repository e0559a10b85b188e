"""Rendezvous: where the ranks of a training exchange their addresses.

On one machine, nothing of the rendezvous can be reached from the network. Ranks that
`launch.supervise` started meet in a file, in a folder that other users cannot enter. Ranks that
srun started meet at a port of the loopback interface. Gloo and NCCL listen on that interface too.

Ranks that torchrun started meet at torchrun's own port. Ranks on several machines meet at a port of
the first machine, which asks for no password: see docs/cluster.md. The port is MASTER_PORT, which
`launch.master_address` sets.
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
    """Lightning's DDP strategy, whose ranks meet as this module describes.

    Args:
        here: position of this process among all ranks.
        **kwargs: arguments of DDPStrategy.
    """

    def __init__(self, here: Place, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.here = here

    def setup_distributed(self) -> None:
        """Initialize the process group as Lightning does, with the meeting point of this module."""
        if dist.is_initialized():  # training and test use the group in which the ranks met
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
    """Let gloo and NCCL listen on the loopback interface only.

    By default they listen on the interface that the host name resolves to. The function sets
    GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in the environment of this process.
    """
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if names:
            os.environ[variable] = names[0]


def meeting_point(here: Place, timeout: timedelta) -> dist.Store | None:
    """Open the store through which the ranks of one machine exchange their addresses.

    Args:
        here: position of this process among all ranks.
        timeout: how long a rank waits for the others.

    Returns:
        The store; None on several machines and with torchrun's own store, where torch opens one
        from the environment.

    Raises:
        UserError: another program uses the port.
    """
    if folder := os.environ.get(MEETING):
        store = dist.FileStore(str(Path(folder, "store")), here.local_size)
        # The default is 5 minutes, too short if one rank imports from a slow disk.
        store.set_timeout(timeout)
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
