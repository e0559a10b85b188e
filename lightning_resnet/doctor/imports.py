"""Check what only a trial can tell: imports, a GPU that computes, and numba's threads."""

from collections.abc import Iterator
from importlib import import_module

from lightning_resnet.doctor.driver import driver, driver_version
from lightning_resnet.doctor.finding import GB, Finding
from lightning_resnet.errors import one_line

CPU_BUILD = (
    "a CPU build of torch with a CUDA build of torchvision (or the reverse) fails so: reinstall "
    "both, together"
)
PINS = "pip install --require-hashes -r requirements.txt"


def imports() -> Iterator[Finding]:
    """Import what a training imports."""
    for name in ("torch", "torchvision", "pytorch_lightning", "lightning_resnet.cli.fit"):
        try:
            import_module(name)
        except Exception as e:  # noqa: BLE001 -- of many types, if versions or libraries do not fit
            cure = CPU_BUILD if "torchvision" in str(e) else PINS
            yield Finding("fails", name, f"cannot be imported: {one_line(e)[:200]}", cure)
            return
    yield Finding("ok", "imports", "torch, torchvision and Lightning fit together")


def gpu() -> Iterator[Finding]:
    """Compute on each device that torch sees, and compare them with what the driver has."""
    import torch

    version = driver_version()
    if not torch.cuda.is_available():
        there = driver()
        if version:
            text = f"{there.found}, but torch (CUDA {torch.version.cuda}) cannot use it"
            cure = (
                "nvidia-smi tells more; torch needs a driver at least as new as its CUDA, and a "
                "visible device"
            )
            there = Finding("warning", "GPU", text, cure)
        yield there
        return
    try:
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            ones = torch.ones(8, 8, device=f"cuda:{i}")
            ones.mm(ones).sum().item()
            free = torch.cuda.mem_get_info(i)[0] / GB
            total = properties.total_memory / GB
            text = (
                f"{i}: {properties.name}, {free:.1f} of {total:.1f} GB free, "
                f"CUDA {torch.version.cuda}, driver {version or 'of unknown version'}"
            )
            if free < 0.5 * total:
                yield Finding("warning", "GPU", text, "another process holds memory: nvidia-smi")
            else:
                yield Finding("ok", "GPU", text)
    except RuntimeError as e:
        cure = "another build of torch, or --trainer.accelerator cpu"
        yield Finding("fails", "GPU", one_line(e)[:200], cure)


def numba_layer() -> Iterator[Finding]:
    """Find the thread pool that numba would take: FFCV's own loader needs one that is safe.

    Our loaders do not use numba.
    """
    for name, module in (("tbb", "tbbpool"), ("omp", "omppool")):
        try:
            import_module(f"numba.np.ufunc.{module}")
        except ImportError:
            continue
        yield Finding("ok", "numba layer", f"{name}, safe for several loaders")
        return
    try:
        import_module("numba")
    except ImportError:
        text = "numba is not installed; only FFCV's own loader needs it"
        yield Finding("ok", "numba layer", text)
        return
    cure = (
        "pip install tbb: with `workqueue` two of FFCV's own loaders abort the process (ours does "
        "not use numba)"
    )
    yield Finding("warning", "numba layer", "workqueue", cure)
