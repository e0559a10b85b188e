"""What `resnet-cli doctor` can only tell by trying: imports that fit together, a GPU that computes, numba's threads."""

from collections.abc import Iterator
from importlib import import_module

from lightning_resnet.doctor.driver import driver, driver_version
from lightning_resnet.doctor.finding import GB, Finding
from lightning_resnet.errors import one_line

CPU_BUILD = (
    "a CPU build of torch beside a CUDA build of torchvision (or the reverse) fails so: install both anew, together"
)


def imports() -> Iterator[Finding]:
    """Whether what a training imports can be imported."""
    for name in ("torch", "torchvision", "pytorch_lightning", "lightning_resnet.cli.fit"):
        try:
            import_module(name)
        except Exception as e:  # noqa: BLE001 -- of many types, where versions or libraries do not fit
            cure = CPU_BUILD if "torchvision" in str(e) else "pip install --require-hashes -r requirements.txt"
            yield Finding("fails", name, f"cannot be imported: {one_line(e)[:200]}", cure)
            return
    yield Finding("ok", "imports", "torch, torchvision and Lightning fit together")


def gpu() -> Iterator[Finding]:
    """Whether torch sees the devices that the driver has, and one computes."""
    import torch

    there, version = driver(), driver_version()
    if not torch.cuda.is_available():
        if version:
            cure = "nvidia-smi tells more; torch needs a driver at least as new as its CUDA, and a visible device"
            yield Finding("careful", "GPU", f"{there.found}, but torch (CUDA {torch.version.cuda}) cannot use it", cure)
        else:
            yield there
        return
    try:
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            torch.ones(8, 8, device=f"cuda:{i}").mm(torch.ones(8, 8, device=f"cuda:{i}")).sum().item()
            free = torch.cuda.mem_get_info(i)[0] / GB
            text = f"{i}: {about.name}, {free:.1f} of {about.total_memory / GB:.1f} GB free, CUDA {torch.version.cuda}"
            text += f", driver {version or 'of unknown version'}"
            low = free < 0.5 * about.total_memory / GB
            yield Finding("careful" if low else "ok", "GPU", text, low * "another process holds memory: nvidia-smi")
    except RuntimeError as e:
        yield Finding("fails", "GPU", one_line(e)[:200], "another build of torch, or --trainer.accelerator cpu")


def numba_layer() -> Iterator[Finding]:
    """Which thread pool numba would take: FFCV's own loader needs one that is safe (ours does not use numba)."""
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
        yield Finding("ok", "numba layer", "numba is not installed; only FFCV's own loader needs it")
        return
    cure = "pip install tbb: with `workqueue` two of FFCV's own loaders abort the process (ours does not use numba)"
    yield Finding("careful", "numba layer", "workqueue", cure)
