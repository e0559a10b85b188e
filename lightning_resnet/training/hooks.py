"""What a recipe can put into the training step: an augmentation, targets and a loss of a user's own.

resnet-cli fit --config configs/digits.yaml --model.hooks myhooks.Darken --model.hooks.most 0.3
"""

from torch import Tensor


class TrainingHooks:
    """Base of hooks that a recipe names by `--model.hooks`; each default leaves the training as it is.

    ClassificationTask has methods of the same names, which a subclass of the task overrides in the same way. Both are
    called in training only, outside of what `--model.compile` compiles.
    """

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images to train on, and their targets.

        Whatever this draws must come from the global generators of torch, NumPy or Python. They are seeded by seed,
        epoch, batch and rank, so that a run that continues repeats what was drawn.

        Args:
            images: uint8 [B, 3, H, W], before normalisation and mixing, on the device of the net.
            labels: class indices [B]; -100 of a damaged image.

        Returns:
            (images uint8 [B, 3, H, W] of any height and width, targets). Targets are class indices [B], by which the
            training accuracy is counted too, or probabilities [B, C]. Mixing mixes them in the next step.
        """
        return images, labels

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Return the loss of a micro-batch, a scalar that is a mean over its images; None: that of `--model.loss`.

        Args:
            logits: [B, C].
            targets: class indices [B], or probabilities [B, C] where images are mixed or `augment` gives them. Of a
                damaged image the index is -100, or all probabilities are 0.
        """
        return None
