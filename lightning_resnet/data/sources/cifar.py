"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

from pathlib import Path

import numpy as np

from lightning_resnet.data.images import ArrayImages, Images
from lightning_resnet.data.published import CIFAR10_BINARY, CIFAR100_BINARY
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.errors import UserError

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
""".split()


class CIFAR10(Source):
    """50,000 training and 10,000 test images of 32x32 in 10 classes (Krizhevsky 2009).

    The 10,000 validate, as in He et al. 2015.

    Args:
        root: folder in which `resnet-cli data get cifar10` put the images.
        holdout: number of training images to validate on instead (the paper chose its schedule on
            45,000/5,000); the 10,000 are then the test set.
    """

    classes = list(CIFAR10_CLASSES)
    reader = "CIFAR10"  # torchvision's, of the files for Python
    binary = CIFAR10_BINARY  # what `resnet-cli data get` makes of parquet files
    labels = 1  # bytes in front of the pixels of a record; the last one is the class
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def __init__(self, root: str = "data", holdout: int = 0) -> None:
        self.root = root
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """Read train and val, and test with `holdout`."""
        import torchvision.datasets

        try:
            train, test = (
                getattr(torchvision.datasets, self.reader)(self.root, train=t)
                for t in (True, False)
            )
        except RuntimeError as e:
            if self.binary.lies_in(Path(self.root)):
                return with_holdout(self._read_binary(), self.holdout)
            name = self.reader.lower()
            raise UserError(
                f"{self.reader} not found (or damaged) in folder {self.root}: run `resnet-cli data "
                f"get {name} --root {self.root}`, or set --data.source.root"
            ) from e
        splits = {}
        for split, d in (("train", train), ("val", test)):
            labels = np.asarray(d.targets, np.int64)
            splits[split] = ArrayImages(np.arange(len(d.data)), labels, d.data)
        return with_holdout(splits, self.holdout)

    def _read_binary(self) -> dict[str, Images]:
        """Read the files for C: records of labels and pixels, channel by channel."""
        folder = Path(self.root, self.binary.folder)
        splits = {}
        for split in ("train", "val"):
            names = [name for name in self.binary.digests if ("test" in name) == (split == "val")]
            raw = np.concatenate([np.fromfile(folder / name, np.uint8) for name in names])
            records = raw.reshape(-1, self.labels + 3 * 32 * 32)
            labels = records[:, self.labels - 1].astype(np.int64)
            pixels = records[:, self.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            pixels = np.ascontiguousarray(pixels)
            splits[split] = ArrayImages(np.arange(len(labels)), labels, pixels)
        return splits


class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images of 32x32 in 100 classes; arguments as of `CIFAR10`."""

    classes = list(CIFAR100_CLASSES)
    reader = "CIFAR100"
    binary = CIFAR100_BINARY
    labels = 2
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
