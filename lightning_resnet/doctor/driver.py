"""NVIDIA's kernel module, as /proc tells of it: no GPU is asked, and torch is not imported."""

from pathlib import Path

from lightning_resnet.doctor.finding import Finding

DRIVER = Path("/proc/driver/nvidia")


def driver() -> Finding:
    """NVIDIA's kernel module and the devices it knows, without asking any."""
    if not (version := driver_version()):
        return Finding("ok", "GPU", "no NVIDIA driver: training would use the CPU")
    return Finding("ok", "GPU", f"{len(list((DRIVER / 'gpus').glob('*')))} devices, driver {version}")


def driver_version() -> str:
    """As the kernel module tells; empty without."""
    try:
        return (DRIVER / "version").read_text().splitlines()[0].partition(":")[2].strip()
    except OSError:
        return ""
