"""lightning_resnet."""
