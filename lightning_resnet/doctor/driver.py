"""Read /proc for NVIDIA's kernel module: no GPU is asked, and torch is not imported."""

from pathlib import Path

from lightning_resnet.doctor.finding import Finding

DRIVER = Path("/proc/driver/nvidia")


def driver() -> Finding:
    """Return the version of NVIDIA's kernel module, and how many devices the module knows."""
    if not (version := driver_version()):
        return Finding("ok", "GPU", "no NVIDIA driver: training would use the CPU")
    return Finding(
        "ok", "GPU", f"{len(list((DRIVER / 'gpus').glob('*')))} devices, driver {version}"
    )


def driver_version() -> str:
    """Return the version of NVIDIA's kernel module; empty if it is not loaded."""
    try:
        return (DRIVER / "version").read_text().splitlines()[0].partition(":")[2].strip()
    except OSError:
        return ""
