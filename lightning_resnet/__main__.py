"""`python -m lightning_resnet` is `resnet-cli`."""

import sys

from lightning_resnet.cli.main import main

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, by `python -m`
    sys.exit(main())
