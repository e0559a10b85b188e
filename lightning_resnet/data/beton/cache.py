"""A .beton of any split, written once on this machine.

`--data.loader ffcv` reads this file if the source has none.
"""

import hashlib
import os
from pathlib import Path

from lightning_resnet.data.beton.encode import marks
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.images import BetonImages, FileImages, Images
from lightning_resnet.data.sources.base import Source
from lightning_resnet.data.sources.beton_files import images_of, open_beton
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import cache_folder, locked

CURE = "go on without such images: --data.on_bad count"


def as_beton(images: Images, source: Source, split: str) -> BetonImages:
    """Write the samples to a file in the user's cache folder, once, and return them from there.

    The folder is XDG_CACHE_HOME, by default ~/.cache.

    Raises:
        UserError: the folder cannot be written.
    """
    name = type(source).__name__
    path = Path(f"{name}-{split}-{_digest(images)}.beton")
    try:
        path = cache_folder() / path
        cure = "use --data.loader torch"
        # Other runs wait until the file is there.
        with locked(path.with_suffix(".lock"), path, cure):
            if not path.exists():
                write_beton(
                    images, path, classes=source.classes, source=name, split=split, cure=CURE
                )
                size = path.stat().st_size / 1e6
                tell(
                    f"{path} ({size:,.1f} MB) stays for further runs; it may be deleted at any time"
                )
    except OSError as e:
        raise UserError(
            f"cannot write {path}: {e.strerror}; set XDG_CACHE_HOME, or use --data.loader torch"
        ) from e
    return images_of(open_beton(path))


def _digest(images: Images) -> str:
    """Digest what the file will hold.

    The names of image files stand for their content, with size and time of change.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(images.ids.tobytes() + images.labels.tobytes())
    if isinstance(images, FileImages):
        digest.update(os.fsencode("\0".join(map(os.path.abspath, images.paths))))
        digest.update(marks(images.paths).tobytes())
    else:
        digest.update(images.contents())
    return digest.hexdigest()
