"""What a user gets wrong is one line that names the cure, and exit status 2, before anything is
written.
"""

from pathlib import Path

import pytest
import torch
from helpers.command_line import REPOSITORY, TINY
from helpers.run_dir import only_run

SHORT = [*TINY, "--trainer.max_epochs", "2"]


DIGITS = ["--config", REPOSITORY / "configs/digits.yaml"]


LAZY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.head = nn.LazyLinear(num_classes)

class Wrong(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.head = nn.Linear("3", num_classes)
"""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*DIGITS, "--model.net.depth", "21"], "must be 6n+2, got 21; try 20"),
        (
            [*DIGITS, "--model.net.shortcut", "D"],
            "--model.net.shortcut must be one of none, A, B, C, scaled, dropout, gate, ",
        ),
        ([*DIGITS, "--run.keep", "some"], "--run.keep must be one of all, weights, none; got some"),
        (["recipe.yaml"], "unknown option recipe.yaml: put --config before a recipe"),
        (
            ["--config", "tipo.yml"],
            "cannot read recipe tipo.yml: No such file or directory; did you mean typo.yaml?",
        ),
        (
            [*DIGITS, "--model.net", "lazy.Net"],
            "Net.head.weight is of a lazy layer: give that layer its number of",
        ),
        ([*DIGITS, "--model.net", "lazy.Nope"], "model.net: lazy has no Nope"),
        (
            [*DIGITS, "--data.batch_size", "5000"],
            "exceeds the 1437 training images: lower --data.batch_size to 1437",
        ),
        ([*DIGITS, "--model.net", "lazy.Wrong"], "lazy.Wrong, or what it is trained with: empty()"),
        (
            [*DIGITS, "--model.net.dpth", "56"],
            "unknown option --model.net.dpth of CifarResNet; did you mean --model.net.depth?",
        ),
        (
            [*DIGITS, "--model.optimizer", "absent.optim.Lamb"],
            "model.optimizer: no module named absent: pip install absent",
        ),
        (
            [*DIGITS, "--model.net", "absent.Net"],
            "model.net: no module named absent: pip install absent",
        ),
        ([*DIGITS, "--model.bce_threshold", "0.2"], "--model.bce_threshold null"),
        (
            [*DIGITS, "--model.label_smoothing", "1.5"],
            "--model.label_smoothing must be a number from 0 to 1; got 1.5",
        ),
        ([*DIGITS, "--model.precise_bn", "-1"], "--model.precise_bn must be a whole number from 0"),
        ([*DIGITS, "--model.schedule.at", "[30, 60]"], "divide epochs by --trainer.max_epochs"),
        (
            [*DIGITS, "--model.optimzer.lr", "1"],
            "unknown option --model.optimzer.lr; did you mean --model.optimizer",
        ),
        (
            [*DIGITS, "--data.btch_size", "8"],
            "unknown option --data.btch_size; did you mean --data.batch_size?",
        ),
        ([*DIGITS, "--trainer.max_epoch", "8"], "did you mean --trainer.max_epochs?"),
        (
            [*DIGITS, "--trainer.accumulate_grad_batches", "3"],
            "batch_size 64 (images per optimizer step) is not divisible",
        ),
        ([*DIGITS, "--model.net.num_classes", "9"], "add --model.net.num_classes 10"),
        (
            [*DIGITS, "--model.net", "torchvision.models.vgg11", "--data.size", "16"],
            "VGG cannot take images of (3, 16, 16)",
        ),
        (
            [*DIGITS, "--data.source", "ImageFolder", "--data.source.root", "nowhere"],
            "nowhere does not exist",
        ),
        ([*DIGITS, "--data.source", "ImageFolder", "--data.source.root", "."], "no images in"),
        ([*DIGITS, "--data.source", "CIFAR10"], "`resnet-cli data get cifar10"),
        ([*DIGITS, "--run.init_from", "no.ckpt"], "cannot read --run.init_from no.ckpt"),
        ([*DIGITS, "--run.root", "/proc/1/nowhere"], "set --run.root to a folder you can write"),
        (
            ["--config", "list.yaml"],
            "recipe list.yaml is not a mapping (lines `key: value`) but a list",
        ),
        (["--config", "torn.yaml"], "torn.yaml: this is not YAML"),
        (["--config", "typo.yaml"], "unknown option modle.net; did you mean model"),
        (
            [*DIGITS, "--config", "flat.json"],
            "write model.net.class_path and model.net.init_args.depth",
        ),
        (["--config", "absent.yaml"], "cannot read recipe absent.yaml"),
        (
            [*DIGITS, "--data.batch_size", "0"],
            "--data.batch_size must be a whole number from 1 to 1,000,000,000; got 0",
        ),
        ([*DIGITS, "--model.net.width", "-1"], "error:"),
        (
            [*DIGITS, "--model.precise_bn", "-1"],
            "--model.precise_bn must be a whole number from 0 to 1,000,000; got -1",
        ),
        ([*DIGITS, "--model.optimizer.lr", "-1"], "--model.optimizer.lr must be a number from 0"),
        ([*DIGITS, "--trainer.accelerator", "gpu"], "error:"),
        (
            [*DIGITS, "--run.threads", "-1"],
            "--run.threads must be a whole number from 1 to 4,096 or null; got -1",
        ),
        ([*DIGITS, "--seed_everything", "-1"], "--seed_everything must be a whole number from 0"),
        ([], "give a recipe, such as --config digits"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, args, message):
    Path("list.yaml").write_text("- a\n")
    Path("flat.json").write_text('{"model.net": "gated.GatedNet", "model.net.depth": 8}')
    Path("torn.yaml").write_text("a: [1\nb: }")
    Path("typo.yaml").write_text("modle: {net: 3}")
    Path("lazy.py").write_text(LAZY)
    code, _, err = cli("fit", *args)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
    assert not Path("runs").exists() or not list(Path("runs").rglob("attempts/*"))


def test_unknown_verb_names_the_nearest(cli):
    assert "unknown verb fti; did you mean fit?" in cli("fti")[2]


def test_a_checkpoint_of_another_net_names_the_first_tensor(cli):
    cli("fit", *SHORT)
    checkpoint = only_run() / "checkpoints/last.ckpt"
    code, _, err = cli("validate", *SHORT, "--model.net.width", 8, "--ckpt_path", checkpoint)
    assert (
        code == 2
        and "net.conv1.weight is (4, 3, 3, 3) there and (8, 3, 3, 3) here; give "
        "--model.net.width 4\n"
        in err
    )
    code, _, err = cli("fit", *SHORT, "--model.net.depth", 14, "--run.init_from", checkpoint)
    assert (
        code == 2
        and "net.layer1.1.conv1.weight is absent there" in err
        and "give --model.net.depth 8\n" in err
    )
    code, _, err = cli("validate", *SHORT, "--model.net.depth", 14)
    assert (
        code == 2
        and "there is no run runs/" in err
        and "give the flags of the fit that you mean" in err
    )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_checkpoints_are_refused(cli, content, tmp_path):
    if content is None:
        torch.save(
            {"state_dict": {}, "code": Path("x")}, "bad.ckpt"
        )  # a pickle of more than tensors
    else:
        Path("bad.ckpt").write_bytes(content)
    code, _, err = cli("validate", *SHORT, "--ckpt_path", "bad.ckpt")
    assert code == 2 and "bad.ckpt cannot be read" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--trainer.num_sanity_val_steps 2", "validation is by epoch"),
        ("--trainer.limit_train_batches 0", "must be a share of the batches above 0"),
        ("--trainer.max_epochs 0 --trainer.max_steps 3", "max_epochs must be 1 or more"),
        ("--trainer.max_time 00:01:00:00", "let SIGUSR1 end the job in time"),
        ("--trainer.strategy fsdp", "ranks exchange gradients by ddp"),
        ("--run.must_resume", "no checkpoint to continue from"),
    ],
)
def test_what_the_loop_does_not_do_is_refused(cli, args, message):
    code, _, err = cli("fit", *TINY, *args.split())
    assert code == 2 and message in err and err.count("\n") == 1
