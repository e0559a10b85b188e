"""Write a trained net as an ONNX file, and check the file in onnxruntime.

The file takes uint8 images, normalises them, and gives logits.
"""

import json
import logging
import warnings
from pathlib import Path

import torch

from lightning_resnet.errors import UserError, one_line
from lightning_resnet.files import replacing
from lightning_resnet.machine import is_installed
from lightning_resnet.weights.trained import Trained

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # largest difference of logits, as a share of the largest logit
SAMPLES = (1, 3)  # sizes of the batches that are compared


def export(trained: Trained, out: Path, size: int | None = None) -> str:
    """Write the file and compare it with the net on random images.

    The batches have other sizes than the batch that the net was traced with.

    Args:
        trained: the trained net.
        out: file to write.
        size: pixels per side; default: the recipe's, else that of the images trained on.

    Returns:
        What the file takes and gives, and how far its logits are from the net's.

    Raises:
        UserError: a package is missing, the net cannot be exported, or the logits differ (then
            nothing is written).
    """
    if missing := [name for name in PACKAGES if not is_installed(name)]:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'lightning_resnet[onnx]'")
    trained_at = (trained.input_size or (3, None, None))[1]
    size = size or trained.experiment.data.eval_augment.size or trained_at
    if size is None:
        raise UserError("the recipe does not tell the pixels per side: give --size")
    with replacing(out) as file:
        _write(trained, Path(file.name), size)
        worst = _difference(trained, Path(file.name), size)
        if worst > TOLERANCE:
            raise UserError(
                f"logits in onnxruntime are {worst:.1e} off, more than {TOLERANCE:g}: "
                f"{out} is not written"
            )
    return (
        f"{prepared(trained, size)}\n"
        f"images uint8 [N, 3, {size}, {size}] -> logits [N, classes]; "
        f"onnxruntime's are within {worst:.1e} of torch's"
    )


def prepared(trained: Trained, size: int) -> str:
    """Return in words how an image becomes what the file takes, as `predict` prepares it."""
    augment = trained.experiment.data.eval_augment
    scaled = "area filter" if augment.resize == "area" else "bilinear, antialiased"
    return (
        f"each image: RGB, its central square of {augment.share:g} of the shorter side, scaled to "
        f"{size}x{size} ({scaled}), values 0 to 255, channels first"
    )


def _write(trained: Trained, path: Path, size: int) -> None:
    """Trace the net and write the file; its metadata has the class names."""
    import onnx

    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's exporter on its own internals
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                _Net(trained),
                (images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    except Exception as e:  # of many types, for what cannot be traced
        raise UserError(
            f"{type(trained.task.net).__name__} cannot be exported to ONNX: {one_line(e)[:300]}"
        ) from e
    model = program.model_proto
    told = {"classes": json.dumps(trained.classes), "preprocessing": prepared(trained, size)}
    onnx.helper.set_model_props(model, told)
    onnx.save(model, path)


class _Net(torch.nn.Module):
    """The forward pass of a task, without Lightning around it."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.net = trained.task.net
        self.register_buffer("mean", trained.task.mean)
        self.register_buffer("std", trained.task.std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net((images.to(self.mean.dtype) - self.mean) / self.std)


def _difference(trained: Trained, path: Path, size: int) -> float:
    """Return the largest difference between the logits of the file and of the net.

    Logits above 1 are compared by their share of the largest logit.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for n in SAMPLES:
        images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            wanted = trained.task(images)
        (got,) = session.run(["logits"], {"images": images.numpy()})
        difference = float((torch.from_numpy(got) - wanted).abs().max())
        scale = max(1.0, float(wanted.abs().max()))
        worst = max(worst, difference / scale)
    return worst
