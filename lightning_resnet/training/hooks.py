"""Hooks that a recipe adds to the training step: a user's own augmentation, targets and loss.

resnet-cli fit --config configs/digits.yaml --model.hooks myhooks.Darken --model.hooks.most 0.3
"""

from torch import Tensor


class TrainingHooks:
    """Base class of hooks that a recipe names by `--model.hooks`.

    The methods of this class leave the training as it is. ClassificationTask has methods of the
    same names, which a subclass of the task can override in the same way. Hooks are called in
    training only, outside of the function that `--model.compile` compiles.
    """

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images to train on, and their targets.

        Draw random numbers only from the global generators of torch, NumPy or Python. These are
        seeded with a hash of seed, epoch, batch and rank, so that a run that continues repeats its
        draws.

        Args:
            images: uint8 [B, 3, H, W], before normalisation and mixing, on the device of the net.
            labels: class indices [B]; -100 for a damaged image.

        Returns:
            (images uint8 [B, 3, H, W] of any height and width, targets). Targets are either class
            indices [B], which the training accuracy then counts by, or probabilities [B, C].
            `--model.mix` mixes images and targets afterwards.
        """
        return images, labels

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Return the loss of a micro-batch, or None to take the loss of `--model.loss`.

        Args:
            logits: [B, C].
            targets: class indices [B], or probabilities [B, C] if images are mixed or `augment`
                returns probabilities. A damaged image has the index -100, or probabilities of 0.

        Returns:
            A scalar, the mean over the images of the micro-batch.
        """
        return None
