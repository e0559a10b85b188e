"""A part of a source has the classes and numbers asked for, the same in every run."""

import numpy as np
import pytest
from helpers.command_line import REPOSITORY
from helpers.run_dir import only_run

from lightning_resnet.data.sources.digits import Digits
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.subset import Subset
from lightning_resnet.errors import UserError


def test_classes_and_images_are_those_asked_for():
    part = Subset(Digits(), num_classes=5, per_class=30)
    splits, complete = part.splits(), Digits().splits()
    assert np.bincount(splits["train"].labels).tolist() == [30] * 5 and part.classes == list(
        "01234"
    )
    assert len(splits["val"]) == (complete["val"].labels < 5).sum() and part.mean == Digits.mean
    assert (
        np.isin(splits["train"].ids, complete["train"].ids).all()
        and (np.diff(splits["train"].ids) > 0).all()
    )
    fewer = Subset(Digits(), 5, 10).splits()["train"].ids
    assert np.isin(fewer, splits["train"].ids).all()  # nested: fewer images are some of the more
    assert len(Subset(Digits()).splits()["train"]) == len(complete["train"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_classes": 11}, "the source has 10"), ({"per_class": 500}, "only 1[0-9][0-9] training")],
)
def test_too_much(arguments, message):
    with pytest.raises(UserError, match=message):
        Subset(Digits(), **arguments).splits()


def test_a_source_without_training_images_is_evaluated_only(tmp_path):
    for kind in "abc":
        (tmp_path / "val" / kind).mkdir(parents=True)
        (tmp_path / "val" / kind / "1.png").touch()
    splits = Subset(ImageFolder(str(tmp_path)), num_classes=2).splits()
    assert {name: len(images) for name, images in splits.items()} == {"val": 2}
    for option in ("per_class", "holdout"):
        with pytest.raises(UserError, match="only val, and no training images.* leave out"):
            Subset(ImageFolder(str(tmp_path)), **{option: 1}).splits()


def test_from_the_command_line(cli):
    args = (
        "--run.threads 1 --model.net.depth 8 --trainer.max_epochs 1 --data.source Subset "
        "--data.source.source Digits"
    )
    args = [*args.split(), "--data.source.num_classes", 3, "--data.source.per_class", 50]
    code, out, err = cli("fit", "--config", REPOSITORY / "configs/digits.yaml", *args)
    assert code == 0, err
    assert "150 training images" in out and only_run()
    code, _, err = cli(
        "fit", "--config", REPOSITORY / "configs/digits.yaml", *args, "--data.source.per_class", 0
    )
    assert code == 2 and "per_class must be a whole number from 1" in err
