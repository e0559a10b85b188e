"""The table of keys that is read before torch is imported says what the parser of recipes says."""

import json

from lightning_resnet import keys
from lightning_resnet.config.keys import table

COMMAND = "python -m lightning_resnet.config.keys"


def test_the_table_is_that_of_the_parser():
    written = json.loads(keys.FILE.read_text())
    live = json.loads(json.dumps(table()))
    if not keys.is_current():  # another Lightning or torch: only our own part can be compared
        for content in (written, live):
            content["keys"] = {k: v for k, v in content["keys"].items() if keys.keys()[k].is_ours}
            content["keys"].pop("model.optimizer")
            ours = content["keys"]["model.net"]["classes"]
            content["classes"] = {name: content["classes"][name] for name in ours}
        del written["versions"], live["versions"], written["nets"], live["nets"]
    assert written == live, f"write it again: {COMMAND}"


def test_the_table_tells_what_a_key_may_be():
    epochs = keys.keys()["trainer.max_epochs"]
    assert epochs.needs == "a whole number from -1 to 1,000,000 or null" and not epochs.is_ours
    assert 5 in epochs.range and -2 not in epochs.range
    assert keys.keys()["model.net"].classes == ["CifarResNet", "ImageNetResNet"]
    assert keys.keys()["model.ema"].needs == "a mapping such as {decay: 0.999} or null"
    assert keys.classes()["CifarResNet"]["depth"].is_required
    assert keys.classes()["CifarResNet"]["shortcut"].choices[:4] == ["none", "A", "B", "C"]
