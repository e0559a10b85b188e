"""Every numeric option and every choice of `fit`, given what it cannot be: one line that names it
and what is valid.
"""

import pytest
from helpers.command_line import REPOSITORY

from lightning_resnet.config.recipe import RecipeParser
from lightning_resnet.errors import UserError

RECIPE = ["--config", f"{REPOSITORY}/configs/digits.yaml"]
WRONG = [
    "null",
    "nan",
    "inf",
    "-inf",
    "-2",
    "1e30",
    "9" * 24,
    "1" * 5000,
    "text",
    "[1]",
    "[]",
    "{}",
    "1.5",
    "true",
]
FLOATS = {"1.5"}
NULL = {"null"}
ZERO_UP = FLOATS | {"true"}
NUMBERS = {  # option -> which of WRONG it takes, after flags that choose its class
    "": {
        "seed_everything": set(),
        "model.label_smoothing": set(),
        "model.bn_batch": NULL,
        "model.precise_bn": set(),
        "trainer.devices": {"[1]"},
        "trainer.num_nodes": set(),
        "trainer.max_epochs": set(),
        "trainer.check_val_every_n_epoch": NULL,
        "trainer.log_every_n_steps": NULL,
        "trainer.accumulate_grad_batches": set(),
        "trainer.max_steps": set(),
        "trainer.fast_dev_run": {"true"},
        "trainer.limit_train_batches": NULL | FLOATS,
        "trainer.limit_val_batches": NULL | FLOATS,
        "trainer.gradient_clip_val": NULL | FLOATS | {"1e30", "9" * 24},
        "data.batch_size": set(),
        "data.size": NULL,
        "data.pad": set(),
        "data.scale": set(),
        "data.erase": set(),
        "data.eval_share": set(),
        "data.train_eval_samples": set(),
        "data.repeats": set(),
        "data.workers": set(),
        "run.replicate": set(),
        "run.threads": NULL,
        "run.save_minutes": FLOATS,
        "run.keep_epochs": NULL,
        "run.hang_s": FLOATS,
        "model.net.depth": set(),
        "model.net.width": set(),
        "model.net.num_classes": set(),
        "model.net.init": FLOATS,
        "model.optimizer.lr": FLOATS,
        "model.optimizer.momentum": set(),
        "model.optimizer.weight_decay": FLOATS,
        "model.mix.mixup": FLOATS,
        "model.mix.cutmix": FLOATS,
        "model.mix.pairs": set(),
        "model.ema.decay": set(),
        "model.ema.every": set(),
        "model.ema.start": set(),
        "data.progressive.low": set(),
        "data.progressive.high": set(),
        "data.progressive.start": set(),
        "data.progressive.end": set(),
    },
    "--model.loss bce": {"model.bce_threshold": NULL},
    "--model.optimizer AdamW": {"model.optimizer.eps": FLOATS, "model.optimizer.betas": set()},
    "--model.schedule Steps": {
        "model.schedule.at": {"[1]", "[]"},
        "model.schedule.gamma": FLOATS,
        "model.schedule.warmup": set(),
    },
    "--model.schedule Cosine": {
        "model.schedule.warmup": set(),
        "model.schedule.end": FLOATS,
        "model.schedule.start": FLOATS,
        "model.schedule.warmup_epochs": NULL | FLOATS,
    },
    "--model.schedule Plateau": {"model.schedule.patience": set(), "model.schedule.gamma": FLOATS},
    "--model.schedule ErrorWarmup --model.schedule.then Steps": {
        "model.schedule.factor_before": FLOATS,
        "model.schedule.until_error": set(),
        "model.schedule.then.gamma": FLOATS,
    },
    "--data.policy Lighting": {"data.policy.std": FLOATS},
    "--data.policy RandAugment": {"data.policy.ops": set(), "data.policy.magnitude": set()},
    "--data.policy IncreasingRandAugment": {
        "data.policy.magnitude": FLOATS,
        "data.policy.std": FLOATS,
    },
    "--data.source Synthetic": {
        f"data.source.{key}": set() for key in ("n", "n_val", "size", "num_classes")
    },
    "--data.source CIFAR10": {"data.source.holdout": set()},
    "--data.source Subset --data.source.source Digits": {"data.source.per_class": NULL},
}
CHOICES = [
    *(
        "model.loss",
        "model.decay",
        "model.compile",
        "model.net.shortcut",
        "model.net.block",
        "model.net.norm",
    ),
    *(
        "data.crop",
        "data.order",
        "data.loader",
        "data.cache",
        "data.on_bad",
        "run.keep",
        "wandb.mode",
        "launcher",
    ),
    *(
        "trainer.precision",
        "trainer.deterministic",
        "trainer.gradient_clip_algorithm",
        "trainer.accelerator",
    ),
]


@pytest.fixture(scope="module")
def parse():
    """Parse flags after the recipe, with one parser: to make it takes as long as ten uses."""
    parser = RecipeParser("fit")

    def refused(flags):
        try:
            parser.read([*RECIPE, *flags])
        except UserError as e:
            return str(e)
        return ""

    return refused


def assert_clear(message, key):
    assert f"--{key}" in message and len(message) < 400 and "\n" not in message, message
    assert not any(
        sign in message for sign in ("Union", "Expected", "<class", "typing", "NestedArg", "None")
    ), message


def test_a_wrong_number_of_each_option_is_told(parse):
    for key, value in zip(NUMBERS[""], WRONG * 4, strict=False):
        if value not in NUMBERS[""][key]:
            assert_clear(parse([f"--{key}={value}"]), key)


@pytest.mark.slow
@pytest.mark.parametrize("flags", NUMBERS)
def test_a_wrong_number_is_told_in_one_line(parse, flags):
    for key, taken in NUMBERS[flags].items():
        for value in WRONG:
            message = parse([*flags.split(), f"--{key}={value}"])
            assert not message or value not in taken, f"{key}={value}: {message}"
            if value not in taken:
                assert_clear(message, key)
                assert any(word in message for word in ("must be", "needs", "cannot be")), message


@pytest.mark.parametrize("key", CHOICES)
def test_a_wrong_word_is_told_with_the_right_ones(parse, key):
    message = parse([f"--{key}=wrong"])
    assert_clear(message, key)
    assert "must be" in message and message.endswith("got wrong")
