"""The doctor names what would make training fail, with its cure, and imports nothing heavy when it
is to be quick.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.command_line import verb
from jsonargparse import Namespace

from lightning_resnet.cli import doctor as command
from lightning_resnet.config import recipe as config
from lightning_resnet.doctor import checks as doctor
from lightning_resnet.doctor import driver
from lightning_resnet.doctor import imports as doctor_deep
from lightning_resnet.doctor import recipe as doctor_plan

main = verb(command)

CODE = """
import json, sys
from lightning_resnet.cli.main import main
code = main(["doctor", "--quick"])
heavy = ("torch", "numpy", "pytorch_lightning", "pandas", "PIL")
print(json.dumps([code, [m for m in heavy if m in sys.modules]]))
"""


def test_quick_imports_nothing_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    *lines, last = done.stdout.splitlines()
    assert json.loads(last) == [0, []], done.stderr
    found = {line[6:20].strip() for line in lines}
    assert found >= {
        "versions",
        "processor",
        "memory",
        "runs",
        "temporary",
        "decoder",
        "W&B",
        "SLURM",
        "data",
        "GPU",
    }


def findings(check):
    return {finding.what: finding for finding in check()}


def test_each_problem_has_its_cure_and_what_training_fails_of_exits_1(cli, monkeypatch, tmp_path):
    assert cli("doctor", "--quick")[0] == 0
    monkeypatch.setattr(doctor.machine, "memory", lambda: 3 * 10**8)
    monkeypatch.setattr(doctor.machine, "workers", lambda n: 1)
    code, out, _ = cli("doctor", "--quick")
    assert code == 1 and "FAILS memory" in out and "--mem" in out and "--cpus-per-task" in out
    monkeypatch.undo()
    monkeypatch.setattr(
        doctor,
        "requires",
        lambda name: ["torch>=99", "no-such-package>=1", "extra; extra == 'dev'"],
    )
    found = findings(doctor.packages)
    assert (
        found["torch"].level == "warning"
        and found["no-such-package"].level == "fails"
        and len(found) == 3
    )
    for free, level in ((2 * 10**7, "warning"), (0, "fails")):
        monkeypatch.setattr(
            doctor.shutil, "disk_usage", lambda folder, free=free: type("Usage", (), {"free": free})
        )
        assert all(
            f.level == (level if f.what == "runs" else "warning") and f.cure for f in doctor.space()
        )
    (tmp_path / "data/beton").mkdir(parents=True)
    (tmp_path / "data/beton/_decode.abi3.so").write_text("of another machine")
    monkeypatch.setattr(doctor.machine, "__file__", str(tmp_path / "machine.py"))
    unusable = findings(doctor.decoder)["decoder"]
    assert unusable.level == "warning" and "ours cannot be loaded (" in unusable.found
    assert "install a C compiler, libjpeg-dev" in unusable.cure
    monkeypatch.setattr(doctor.machine, "__file__", "/nowhere/machine.py")
    assert findings(doctor.decoder)["decoder"].level == "warning"


def test_the_key_is_found_and_never_shown(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    secret = "0123456789abcdef" * 2 + "01234567"
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "disabled: no key" in findings(doctor.weights_and_biases)["W&B"].found
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "offline: no key" in findings(doctor.weights_and_biases)["W&B"].found
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {secret}\n")
    found = str(findings(doctor.weights_and_biases)["W&B"])
    assert "online" in found and "netrc" in found and secret not in found
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "netrc").rename(tmp_path / "_netrc")
    assert "_netrc" in findings(doctor.weights_and_biases)["W&B"].found
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "token")
    assert "TOKEN_FILE" in findings(doctor.weights_and_biases)["W&B"].found
    monkeypatch.setenv("WANDB_API_KEY", secret)
    found = str(findings(doctor.weights_and_biases)["W&B"])
    assert "WANDB_API_KEY" in found and secret not in found
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in str(findings(doctor.weights_and_biases)["W&B"])
    monkeypatch.setenv("WANDB_MODE", "ofline")
    found = findings(doctor.weights_and_biases)["W&B"]
    assert found.level == "warning" and "set it to online, offline or disabled" in found.cure


def test_folders_named_like_packages_are_no_packages(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    names = ("ffcv", "wandb")
    folder = SimpleNamespace(origin=None)  # what Python finds in such a folder
    for module in (importlib.util, doctor.machine):
        monkeypatch.setattr(
            module, "find_spec", lambda name, *_: folder if name in names else find(name)
        )
    assert "FFCV is not" in findings(doctor.decoder)["decoder"].found
    assert "not installed" in findings(doctor.weights_and_biases)["W&B"].found


def test_slurm(monkeypatch):
    step = {
        "JOB_ID": "7",
        "STEP_ID": "0",
        "PROCID": "1",
        "LOCALID": "1",
        "NODEID": "0",
        "STEP_NUM_TASKS": "2",
    }
    for name, value in (step | {"STEP_NUM_NODES": "1", "NTASKS": "2"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert "job 7 ntasks=2; rank 1 of 2" in findings(doctor.slurm)["SLURM"].found
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    found = findings(doctor.slurm)["SLURM"]
    assert found.level == "fails" and "--ntasks-per-node" in found.cure


RECIPE = """
trainer: {max_epochs: 3, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 8, width: 4}}}
data: {source: {class_path: Synthetic, init_args: {n: 256, n_val: 32, size: 8}}, batch_size: 64}
run: {threads: 1}
"""


def plan(*flags):
    Path("R.yaml").write_text(RECIPE)
    return {
        finding.what: finding
        for finding in doctor_plan.plan(["--config", "R.yaml", *map(str, flags)])
    }


def test_a_recipe_is_checked(cli):
    found = plan()
    assert not any(finding.level == "fails" for finding in found.values())
    assert "parameters" in found["net"].found
    assert (
        found["steps"].found.startswith("4 per epoch, 12 in 3 epochs")
        and "sees 64 images" in found["batch norm"].found
    )
    found = plan("--trainer.devices", 8)
    assert found["batch norm"].level == "warning" and "8 images" in found["batch norm"].found
    assert plan("--trainer.devices", 3)["batch"].level == "fails"
    assert plan("--data.workers", 99)["workers"].level == "warning"
    fails = plan("--model.net.num_classes", 3)["net"]
    assert fails.level == "fails" and "num_classes 10" in fails.cure
    missing = plan(
        "--data.source", "ImageFolder", "--data.source.root", "nowhere", "--data.size", 8
    )
    assert missing["recipe"].level == "fails" and "data.source.root" in missing["recipe"].found


def test_the_folder_of_runs_is_the_recipes(cli, monkeypatch):
    assert str(Path("elsewhere").absolute().parent) in plan("--run.root", "elsewhere")["runs"].found
    Path("file").touch()
    found = plan(
        "--run.root", "file/runs"
    )  # a folder that cannot be written to, for a superuser too
    assert (
        found["runs"].level == "fails"
        and "--run.root" in found["runs"].cure
        and "batch norm" not in found
    )
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5 * 10**6})
    )
    assert plan()["runs"].level == "warning"  # three checkpoints of a net of 0.02 MB
    found = plan("--model.net.width", 64)["runs"]
    assert found.level == "fails" and "at least 0.03 GB" in found.found
    assert cli("doctor", "--config", "R.yaml", "--model.net.width", 64)[0] == 1


def test_an_imagenet_stem_on_small_images_is_told_once(cli):
    net = ["--model.net", "ImageNetResNet", "--model.net.depth", 18, "--model.net.num_classes", 10]
    found = plan(*net)["stem"]
    assert found.level == "warning" and "8x8 as 1x1" in found.found
    assert found.cure.startswith("--data.size 64") and "stem" not in plan()
    few = ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1]
    code, out, err = cli("fit", "--config", "R.yaml", *net, *few)
    assert code == 0 and (out + err).count("made for ImageNet") == 1, err


def test_weights_to_begin_from_are_tried(cli, monkeypatch):
    found = plan("--run.init_from", "missing.ckpt")["recipe"]
    assert found.level == "fails" and "missing.ckpt does not exist" in found.found
    torch.save({"state_dict": {}}, "empty.ckpt")
    assert "of another net" in plan("--run.init_from", "empty.ckpt")["recipe"].found
    code, _, err = cli("fit", "--config", "R.yaml", "--trainer.max_epochs", 1)
    assert code == 0, err
    assert (
        plan("--run.init_from", next(Path().glob("runs/*/*/checkpoints/last.ckpt")))[
            "weights"
        ].level
        == "ok"
    )


def test_gpus_that_are_not_here_fail_last(cli, monkeypatch):
    def devices(**trainer):
        return list(doctor_plan._devices(Namespace(trainer)))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (found,) = devices(accelerator="auto", devices=8)
    assert (
        found.level == "fails" and "8 GPUs" in found.found and "--trainer.devices 2" in found.cure
    )
    assert not devices(accelerator="gpu", devices=2) and not devices(accelerator="cpu", devices=8)
    assert not devices(accelerator="gpu", devices="auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert not devices(accelerator="auto", devices=8)
    monkeypatch.setattr(doctor_plan, "_devices", lambda trainer: [found])
    assert [*plan()][-2:] == ["batch norm", "GPUs"]


def test_batches_are_those_of_fit(cli, monkeypatch):
    """One place makes the numbers: both verbs give them, and the same cure where there
    is no step.
    """
    found = plan("--trainer.devices", 8, "--trainer.sync_batchnorm", "true")["batch norm"]
    assert found.level == "ok" and "sees 64 images" in found.found
    for flags, cure in (
        ("--data.batch_size 512", "lower --data.batch_size to 256"),
        ("--trainer.limit_train_batches 0.1", "raise --trainer.limit_train_batches"),
        (
            "--trainer.limit_train_batches 1 --trainer.accumulate_grad_batches 2",
            "raise --trainer.limit_train_batches",
        ),
        ("--model.mix.mixup 0.2 --data.batch_size 33", "even number"),
        ("--model.bn_batch 5", "choose a divisor"),
        ("--trainer.accumulate_grad_batches 3", "--data.batch_size 63"),
    ):
        (found,) = [one for one in plan(*flags.split()).values() if one.level == "fails"]
        assert cure in found.cure, (flags, found)
        code, _, err = cli("fit", "--config", "R.yaml", *flags.split())
        assert code == 2 and cure in err and not Path("runs").exists(), (flags, err)
    flags = "--model.schedule Cosine --model.schedule.warmup_epochs 3".split()
    assert "warmup_epochs" in plan(*flags)["schedule"].cure and "schedule" not in plan()
    code, out, _ = cli("fit", "--config", "R.yaml", *flags)
    assert code == 0 and "warning: a warm-up of 3 epochs in a training of 3 never" in out


def test_betons_larger_than_memory(cli, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert plan("--data.loader", "ffcv")[".beton files"].level == "ok"
    monkeypatch.setattr(doctor_plan.machine, "memory", lambda: 1000)
    found = plan("--data.loader", "ffcv")[".beton files"]
    assert found.level == "warning" and "--data.order pages" in found.cure


def test_options(cli):
    code, out, _ = cli("doctor", "--quick", "--config", "digits")
    assert code in (0, 1) and "not tried" in out and "forecast" not in out
    code, _, err = cli("doctor", "--quick", "--config", "digit")
    assert code == 2 and err.count("\n") == 1
    assert cli("doctor", "--slow")[0] == 2


@pytest.mark.parametrize("missing", [True, False])
def test_imports_that_do_not_fit_end_the_examination(monkeypatch, missing, capsys):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    if missing:
        monkeypatch.setattr(doctor_deep, "import_module", broken)
    levels = [finding.level for finding in doctor_deep.imports()]
    assert levels == (["fails"] if missing else ["ok"])
    if missing:
        assert main([]) == 1 and "reinstall both" in capsys.readouterr().out


MONITOR = "--trainer.callbacks.monitor"


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
        ["--trainer.callbacks+=BatchSizeFinder"],
        ["--trainer.callbacks+=BackboneFinetuning"],
        ["--trainer.callbacks+=EarlyStopping", MONITOR, "val/los"],
        ["--trainer.callbacks+=LearningRateMonitor"],
        ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last", "true"],
        ["--trainer.callbacks+=ModelCheckpoint", "--trainer.enable_checkpointing", "false"],
        ["--trainer.plugins", "TorchSyncBatchNorm"],
        ["--trainer.val_check_interval", "0.5"],
        ["--model.optimizer", "SparseAdam"],
    ],
    ids=lambda flags: " ".join(flags),
)
def test_what_fit_refuses_is_told_in_its_words(cli, flags):
    finding = plan(*flags)["recipe"]
    assert finding.level == "fails" and not list(Path().glob("*/"))
    code, _, err = cli("fit", "--config", "R.yaml", *flags)
    told = f"{finding.found}: {finding.cure}" if finding.cure else finding.found
    assert (code, err) == (2, f"error: {told}\n")


def test_what_fit_refuses_on_several_ranks_is_told(cli):
    Path("R.yaml").write_text(RECIPE)
    Path("thaw.py").write_text(
        "from pytorch_lightning.callbacks import BaseFinetuning\n"
        "class Thaw(BaseFinetuning):\n"
        "    def freeze_before_training(self, pl_module): pass\n"
        "    def finetune_function(self, pl_module, epoch, optimizer): pass\n"
    )
    code, out, _ = cli(
        "doctor", "--config", "R.yaml", "--trainer.callbacks+=thaw.Thaw", "--trainer.devices", 2
    )
    assert code == 1 and "Thaw does not work on several ranks" in out


def test_callbacks_and_loggers_that_fit_takes_write_nothing(cli):
    save = [
        "--trainer.callbacks+=ModelCheckpoint",
        MONITOR,
        "val/acc1",
        "--trainer.callbacks.save_last",
        "true",
    ]
    rate = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.logger", "CSVLogger"]
    found = plan(*save, *rate)
    assert not any(finding.level == "fails" for finding in found.values())
    assert {path.name for path in Path().iterdir()} == {"R.yaml"}


def test_data_too_large_for_memory_are_not_cured_by_a_smaller_batch(cli, monkeypatch):
    def fail(*args):
        raise MemoryError("Unable to allocate 4.63 GiB for an array")

    monkeypatch.setattr("lightning_resnet.data.sources.synthetic.Synthetic.splits", fail)
    found = plan()["recipe"]
    assert found.level == "fails" and "4.63 GiB" in found.found and "--mem" in found.cure


def test_a_gpu_is_shown_with_its_driver(monkeypatch, tmp_path):
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  999.1\nGCC\n"
    )
    monkeypatch.setattr(driver, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    about = type("About", (), {"name": "Card", "total_memory": 10**10})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (9 * 10**9, 10**10))
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))
    found = findings(doctor_deep.gpu)["GPU"]
    assert (
        found.level == "ok"
        and "Card" in found.found
        and "driver NVIDIA UNIX x86_64 Kernel Module  999.1" in found.found
    )


def test_each_data_set_is_shown_where_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("data/cifar-10-batches-py").mkdir(parents=True)
    found = findings(doctor.data)["data"].found
    assert (
        "digits in scikit-learn's package" in found
        and "CIFAR-10 in data/cifar-10-batches-py" in found
    )
    assert "CIFAR-100" in found.partition(f"not in {tmp_path}")[2]


@pytest.mark.parametrize("as_flag", [True, False])
def test_1_is_one_batch_and_1_0_all(cli, as_flag):
    key = {True: "trainer.limit_{}_batches", False: "limit_{}_batches"}[as_flag]
    for text, is_one in (("1", True), ("1.0", False)):
        limits = {key.format(stage): text for stage in ("train", "val", "test", "predict")}
        recipe = RECIPE
        if not as_flag:
            recipe = recipe.replace(
                "max_epochs: 3", ", ".join(["max_epochs: 3", *map(": ".join, limits.items())])
            )
        Path("R.yaml").write_text(recipe)
        flags = (
            [word for key, value in limits.items() for word in (f"--{key}", value)]
            if as_flag
            else []
        )
        trainer = config.build(config.parse("fit", ["--config", "R.yaml", *flags])).trainer
        for stage in ("train", "val", "test", "predict"):
            assert isinstance(getattr(trainer, f"limit_{stage}_batches"), int) == is_one
    found = plan("--trainer.limit_train_batches", 1)
    assert found["steps"].found.startswith("1 per epoch")
