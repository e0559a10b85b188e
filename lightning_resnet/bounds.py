"""What numbers and words may be that hold in several places, without torch.

The command line refuses them before torch is imported; nets and data refuse them where they are
used, as in a script.
"""

import re

IMAGENET_DEPTHS = (14, 18, 26, 34, 50, 101, 152)
NAMED_DEPTHS = (18, 34, 50, 101, 152)  # `resnet14` and `resnet26` are as well nets of CIFAR
# What `shortcut_value` is where none is given: values of He et al. 2016, table 1. Those of gates
# are the best there; 0.5 for `scaled` trains 110 layers only where `branch_scale` is 0.5 too.
SHORTCUT_VALUES = {"scaled": 0.5, "dropout": 0.5, "gate": -6.0, "exclusive_gate": -6.0}
MOST_RANKS = 256  # on a node; a larger number is a mistake
CROPS = ("centre", "ten", "flip")  # how `evaluate` cuts an image
# Training images of the sources that always have the same.
TRAIN_IMAGES = {"Digits": 1_437, "CIFAR10": 50_000, "CIFAR100": 50_000, "FashionMNIST": 60_000}


def cifar_blocks(depth: int, block: str) -> int:
    """Return the number of blocks of each of the three stages of a CIFAR net.

    Args:
        depth: layers with weights.
        block: kind of the blocks, such as `basic` or `preact_bottleneck`.

    Raises:
        ValueError: no number of blocks gives this depth.
    """
    layers = 2  # of a block
    if block.endswith("bottleneck"):
        layers = 3
    if block.endswith("single"):
        layers = 1
    per_n = 3 * layers
    n = max(1, (depth - 2) // per_n)
    if depth != per_n * n + 2:
        raise ValueError(
            f"depth of a CIFAR net with {block} blocks must be {per_n}n+2, got {depth}; try "
            f"{per_n * n + 2} or {per_n * (n + 1) + 2}"
        )
    return n


def check_imagenet_depth(depth: int) -> None:
    """Refuse a depth that no ImageNet net has.

    Raises:
        ValueError: the depth is another one.
    """
    if depth not in IMAGENET_DEPTHS:
        near = min(IMAGENET_DEPTHS, key=lambda known: abs(known - depth))
        known = ", ".join(map(str, IMAGENET_DEPTHS))
        raise ValueError(
            f"depth of an ImageNet net must be one of {known}; got {depth}; try {near}"
        )


def names_gpus(devices: object) -> bool:
    """Tell whether a value of `--trainer.devices` says which GPUs to use, and not how many."""
    return isinstance(devices, list) or bool(re.search(r"[,\[]", str(devices)))


def check_devices(devices: object) -> None:
    """Refuse devices that are neither a number nor a list of GPUs, each named once.

    Each device is a process. Lightning's own message has no option in it.

    Raises:
        ValueError: the devices are none of that.
    """
    shown = "null" if devices is None else str(devices)[:60]
    is_list = names_gpus(devices)
    items = devices if isinstance(devices, list) else str(devices).strip("[] ").split(",")
    numbers = [number for number in map(str, items) if number.strip()]
    is_valid = bool(numbers) and all(re.fullmatch(r"\s*\d{1,4}\s*", number) for number in numbers)
    if is_valid and is_list and len({int(number) for number in numbers}) < len(numbers):
        raise ValueError(
            f"--trainer.devices {shown} names a GPU twice, and each rank needs one of its own: "
            "give each once"
        )
    if devices in ("auto", "-1", -1):
        return
    if is_valid and (is_list or 0 < int(numbers[0]) <= MOST_RANKS):
        return
    raise ValueError(
        f"--trainer.devices must be a number from 1 to {MOST_RANKS}, auto or -1 (all there are), "
        f"or a list of GPUs such as 0,2; got {shown}"
    )


def check_crop(
    crop: str,
    size: int | None,
    is_progressive: bool,
    pad_fill: str | None,
    resize: str | None,
) -> None:
    """Refuse options of `ImageData` that contradict one another, whatever the images are.

    Args:
        crop: how training images are cut.
        size: pixels per side; None: images keep their size.
        is_progressive: whether images grow during training.
        pad_fill: colour of what crop `pad` adds; None: black.
        resize: filter by which images are scaled; None: bilinear.

    Raises:
        ValueError: the message names what to leave out.
    """
    if is_progressive and crop == "pad":
        raise ValueError("--data.progressive resizes, crop `pad` does not: use --data.crop resized")
    if pad_fill and crop != "pad":
        raise ValueError(
            f"--data.pad_fill is for --data.crop pad; crop `{crop}` adds nothing: drop pad_fill"
        )
    if resize and size is None and not is_progressive:
        raise ValueError(
            "--data.resize says how images are scaled, and without --data.size they keep their "
            "size: set --data.size, or drop resize"
        )


def check_pad(crop: str, size: int | None) -> None:
    """Refuse to train at a size on images that are only padded.

    Raises:
        ValueError: the message names what to leave out.
    """
    if crop == "pad" and size is not None:
        raise ValueError(
            "crop `pad` leaves images at their stored size: give --data.crop resized, or, for "
            "square images of one size, drop --data.size"
        )


def world_sizes(batch_size: int, shared: int, near: int) -> str:
    """Return in words the world sizes among which an optimizer step can be divided.

    Args:
        batch_size: images per optimizer step.
        shared: number of images of which each rank gets a multiple.
        near: a world size; those up to the next larger one that divides are named.

    Returns:
        Such as `a world size of 1, 2 or 3`; empty if there is none.
    """
    sizes = [n for n in range(1, batch_size // shared + 1) if batch_size % (n * shared) == 0]
    smaller = [n for n in sizes if n <= near]
    *others, last = [str(n) for n in sizes[: len(smaller) + 1]] or [""]
    if not others:
        return f"a world size of {last}" if last else ""
    return f"a world size of {', '.join(others)} or {last}"


def check_parts(batch_size: int, ranks: int, accumulated: int, unit: int = 1) -> None:
    """Refuse an optimizer step that cannot be divided among the ranks and their micro-batches.

    Args:
        batch_size: images per optimizer step.
        ranks: world size.
        accumulated: batches that a rank accumulates.
        unit: images of which a rank must have a multiple, for the message.

    Raises:
        ValueError: the message names world sizes and a batch that can be divided.
    """
    parts = ranks * accumulated
    if batch_size % parts:
        sizes = world_sizes(batch_size, accumulated * unit, ranks)
        other = f"{sizes}, or " if sizes else ""
        nearest = max(1, round(batch_size / parts)) * parts
        raise ValueError(
            f"batch_size {batch_size} (images per optimizer step) is not divisible by {ranks} "
            f"ranks x {accumulated} accumulated batches: try {other}--data.batch_size {nearest}, "
            "in another run"
        )


def check_batch(batch_size: int, images: int) -> None:
    """Refuse an optimizer step of more images than there are to train on.

    Raises:
        ValueError: there are fewer images.
    """
    if batch_size > images:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {images} training images: lower "
            f"--data.batch_size to {images} or less"
        )
