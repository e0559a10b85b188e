"""Entry point of `python -m lightning_resnet`, which is the same as `resnet-cli`."""

import sys

from lightning_resnet.cli.main import main

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, which `python -m` puts there
    sys.exit(main())
