"""`resnet-cli doctor`: will training run here? Each problem comes with its cure."""
