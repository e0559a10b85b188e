"""Lines that people type who know other libraries, and what each answer must hold.

`DIGITS` stands for `fit --config digits`. The lines are refused, all before torch is imported;
`UNDERSTOOD` are lines that are understood as other words.
"""

import shlex

DIGITS = "fit --config digits"
TYPED = {
    # words of other programs
    "train --config digits": "did you mean fit?",
    "trian --config digits": "did you mean fit?",
    "eval runs/x": "did you mean evaluate?",
    "resume runs/x": "the command that began a run continues it",
    "finetune --config digits": "did you mean fit?",
    "tune digits_degradation": "did you mean sweep?",
    "download cifar10": "did you mean data get?",
    "benchmark": "did you mean bench?",
    "plot runs": "did you mean compare?",
    "upload runs": "did you mean sync?",
    "fti --config digits": "did you mean fit?",
    # names of concepts
    "DIGITS --resume x": "the same command continues a run",
    "DIGITS --ckpt_path x": "--run.init_from FILE starts a new one from its weights",
    "DIGITS --checkpoint x": "the same command continues a run",
    "DIGITS --auto-resume": "the same command continues a run",
    "DIGITS --pretrained": "--run.init_from torchvision:NAME",
    "DIGITS --weights x.pth": "--run.init_from FILE",
    "DIGITS --output runs/x": "--run.root ROOT",
    "DIGITS --out x": "--run.root ROOT",
    "DIGITS --output-dir x": "--run.root ROOT",
    "DIGITS --local_rank 0": "fit starts the ranks itself",
    "DIGITS --wandb": "--wandb.mode online",
    "DIGITS --tensorboard": "TensorBoardLogger",
    "DIGITS --warmup-epochs 5": "--model.schedule.warmup_epochs N",
    "DIGITS --patience 5": "EarlyStopping",
    "DIGITS --overwrite": "--run.new begins another one",
    "DIGITS --decay 1e-4": "--model.optimizer.weight_decay",
    "DIGITS --root x": "--data.source.root DIR",
    "DIGITS --test-only": "resnet-cli validate",
    # nets and other classes
    "DIGITS --arch resnet51": "there are CifarResNet, ImageNetResNet, or any other as module.Class",
    "DIGITS --model vgg16": "did you mean torchvision.models.vgg16?",
    "DIGITS --model.net efficientnet_b0": "did you mean torchvision.models.efficientnet_b0?",
    "DIGITS --model.net ImageNetResnt": "did you mean ImageNetResNet?",
    "DIGITS --model.net foo": "there are CifarResNet, ImageNetResNet",
    "DIGITS --data.source cifar": "did you mean CIFAR10?",
    "DIGITS --data cifar11": "did you mean CIFAR10?",
    "DIGITS --dataset mnist": "did you mean FashionMNIST?",
    "DIGITS --data.source ImageFolder": "needs --data.source.root",
    "DIGITS --model.net CifarResNet --model.net.layers 20": "unknown option layers of CifarResNet",
    "fit --model.net ImageNetResNet --data.source Digits": "needs --model.net.depth",
    "DIGITS --model.optimizer adan": "did you mean Adam?",
    "DIGITS --model.optimizer lamb": "there are ASGD, Adadelta",
    "DIGITS --model.schedule cosin": "did you mean Cosine?",
    "DIGITS --model.schedule OneCycleLR": "there are Cosine, ErrorWarmup, Linear, Plateau, Steps",
    "DIGITS --data.policy autoaugment": "did you mean RandAugment?",
    "DIGITS --data.policy none": "did you mean null?",
    "DIGITS --trainer.logger wandb": "did you mean --wandb.mode online?",
    "DIGITS --trainer.logger tensorboard": "did you mean TensorBoardLogger?",
    # keys
    "DIGITS --model.depth 56": "did you mean model.net.depth?",
    "DIGITS --model.lr 1": "did you mean model.optimizer.lr?",
    "DIGITS --optimiser.lr 0.1": "did you mean model.optimizer.lr?",
    "DIGITS --epohcs 3": "did you mean trainer.max_epochs?",
    "DIGITS --trainer.max_epoch 3": "did you mean trainer.max_epochs?",
    "DIGITS --trainer.epochs 3": "did you mean trainer.max_epochs?",
    "DIGITS --data.root x": "did you mean data.source.root?",
    "DIGITS --data.source.root x": "unknown option root of Digits, which",
    "DIGITS --data.batchsize 3": "did you mean data.batch_size?",
    "DIGITS --model.optimizer AdamW --model.optimizer.momentum 0.9": "of AdamW, which Muon",
    "DIGITS --model.net.dpth 56": "did you mean depth?",
    "DIGITS --model.optimizer.learning_rate 0.1": "unknown option learning_rate of SGD",
    "DIGITS --run.seed 1": "did you mean seed_everything?",
    "DIGITS --frobnicate 1": "resnet-cli fit --help tells the options",
    "DIGITS --data.batch_size": "--data.batch_size needs a value: a whole number",
    # values
    "DIGITS --epochs ten": "--trainer.max_epochs must be a whole number from -1 to 1,000,000 or "
    "null; got ten",
    "DIGITS --trainer.max_epochs 1.5": "must be a whole number",
    "DIGITS --data.size 224px": "--data.size must be a whole number",
    "DIGITS --size 224x224": "--data.size must be a whole number",
    "DIGITS --trainer.precision fp16": "did you mean 16-mixed?",
    "DIGITS --precision float32": "did you mean 32-true?",
    "DIGITS --model.optimizer.lr 1e-2x": "--model.optimizer.lr must be a number from 0",
    "DIGITS --lr=-1": "--model.optimizer.lr must be a number from 0",
    "DIGITS --model.ema 0.999": "a mapping such as {decay: 0.999} or null; got 0.999",
    "DIGITS --ema true": "a mapping such as {decay: 0.999} or null; got true",
    "DIGITS --model.mix 0.2": "a mapping such as {mixup: 0.2} or null; got 0.2",
    "DIGITS --model.label_smoothing 10%": "a number from 0 to 1; got 10%",
    "DIGITS --model.net.shortcut D": "must be one of none, A, B, C; got D",
    "DIGITS --data.flip maybe": "must be true or false; got maybe",
    "DIGITS --data.workers many": "or auto; got many",
    "DIGITS --gpus two": "--trainer.devices must be a number of devices",
    "DIGITS --gpus 0": "for none: --cpu",
    "DIGITS --accelerator tpus": "did you mean tpu?",
    "DIGITS --seed one": "--seed_everything must be a whole number",
    "DIGITS --wandb.mode on": "must be one of auto, online, offline, disabled",
    "DIGITS --model.loss mse": "must be one of cross_entropy, bce",
    "DIGITS --model.schedule.at 30": "divide epochs by --trainer.max_epochs; got 30",
    # words without dashes
    "fit digits": "put --config before a recipe: --config digits",
    "fit digits_degradation": "this is a sweep: resnet-cli sweep digits_degradation",
    "fit photos_of_mine": "--data.source ImageFolder --data.source.root photos_of_mine",
    "fit mine.yaml": "put --config before a recipe",
    "DIGITS lr=0.1": "write --model.optimizer.lr 0.1",
    "DIGITS model.optimizer.lr=0.1": "write --model.optimizer.lr 0.1",
    "DIGITS +model.ema.decay=0.9": "write --model.ema.decay 0.9",
    "DIGITS ~model.ema": "leave the key out",
    # files
    "fit --config nothere.yaml": "cannot read recipe nothere.yaml",
    "fit --config digts": "did you mean digits?",
    "fit --config digits_degradation": "is a sweep, no recipe: resnet-cli sweep",
    "doctor --config nothere.yaml": "cannot read recipe nothere.yaml",
    "sweep digits": "is a recipe, no sweep: resnet-cli fit --config digits",
    "fit --config wrong_key.yaml": "did you mean data.batch_size? (wrong_key.yaml, line 2)",
    "fit --config wrong_value.yaml": "; got ten (wrong_value.yaml, line 2)",
    "sweep short.yaml": "unknown option lr; did you mean model.optimizer.lr?",
    # other verbs
    "validate --config digits --model.net.depth x": "must be a whole number",
    "test --config digits --trainer.max_epoch 3": "did you mean trainer.max_epochs?",
    "predict --config digits --data.sze 3": "did you mean data.size?",
    "doctor --config digits --epohcs 3": "did you mean --epochs?",
    "doctor --config digits --batch-size x": "--data.batch_size must be a whole number",
    "inspect gradient runs": "did you mean gradients?",
    "inspect gradients runs --bathces 3": "did you mean --batches?",
    "data wirte digits": "did you mean write?",
    "data get cifar": "did you mean cifar10?",
    "data write imagenet_folder --out x": "did you mean image_folder?",
    "bench lodaer": "did you mean loader?",
    "evaluate --checkpoint runs/x": "give the run or checkpoint as a word",
    "predict a.png --ckpt_path x --formt json": "did you mean --format?",
    "predict a.png --ckpt_path x --format jsn": "did you mean json?",
    "predict a.png --ckpt_path x --top five": "a whole number",
    "compare runs --metrc loss": "did you mean --metric?",
    "compare runs --x epochs": "did you mean epoch?",
    "convert x.pth --output y.ckpt": "did you mean --out?",
    "sweep digits_degradation --jobs 3": "unknown option --jobs",
    "sweep digits_degradation --submitt": "did you mean --submit?",
    "deepen x.ckpt --depht 20 --out y": "did you mean --depth?",
    "sync runs --evry 3": "did you mean --every?",
}
UNDERSTOOD = {
    "--lr 0.1 --epochs=10 --depth 56 --shortcut none --seed 1": {
        "model.optimizer.init_args.lr": 0.1,
        "trainer.max_epochs": 10,
        "model.net.init_args.depth": 56,
        "model.net.init_args.shortcut": "none",
        "seed_everything": 1,
    },
    "-b 32 --workers 0 --wd 1e-4 --momentum 0.8 --width 8": {
        "data.batch_size": 32,
        "data.workers": 0,
        "model.optimizer.init_args.weight_decay": 1e-4,
        "model.optimizer.init_args.momentum": 0.8,
        "model.net.init_args.width": 8,
    },
    "--devices 1 --precision bf16-mixed --name x --batch-size 16": {
        "trainer.devices": "1",
        "trainer.precision": "bf16-mixed",
        "run.name": "x",
        "data.batch_size": 16,
    },
    "--arch plain20 --optimizer adamw --model.schedule COSINE": {
        "model.net.class_path": "lightning_resnet.CifarResNet",
        "model.net.init_args.depth": 20,
        "model.net.init_args.shortcut": "none",
        "model.optimizer.class_path": "torch.optim.AdamW",
        "model.schedule.class_path": "lightning_resnet.Cosine",
    },
    "--model.net resnet50 --data cifar10 --policy randaugment --amp --data.flip": {
        "model.net.class_path": "lightning_resnet.ImageNetResNet",
        "model.net.init_args.depth": 50,
        "model.net.init_args.shortcut": "B",
        "data.source.class_path": "lightning_resnet.CIFAR10",
        "data.policy.class_path": "lightning_resnet.RandAugment",
        "trainer.precision": "bf16-mixed",
        "data.flip": True,
    },
    "--data photos_of_mine --gpus 1": {
        "data.source.class_path": "lightning_resnet.ImageFolder",
        "data.source.init_args.root": "photos_of_mine",
        "trainer.devices": "1",
        "trainer.accelerator": "gpu",
    },
    "--optimizer.lr 0.3 --trainer.callbacks earlystopping --trainer.callbacks.monitor val/loss": {
        "model.optimizer.init_args.lr": 0.3,
    },
}


# run by a fresh interpreter: prints the answer to each line of TYPED as JSON, and imports no torch
ANSWER_ALL = """
import contextlib, io, json, sys
from pathlib import Path
from helpers.typed import TYPED, words_of, write_files
from lightning_resnet.cli.main import main

write_files(Path())
answers = {}
for line in TYPED:
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        status = main(words_of(line))
    answers[line] = [status, told.getvalue(), "torch" in sys.modules]
print(json.dumps(answers))
"""


def words_of(line):
    """Return the words of a line."""
    return shlex.split(line.replace("DIGITS", DIGITS))


def write_files(folder):
    """Write the files that the lines name."""
    (folder / "photos_of_mine/train/cat").mkdir(parents=True)
    (folder / "wrong_key.yaml").write_text("data:\n  batchsize: 3\n")
    (folder / "wrong_value.yaml").write_text("trainer:\n  max_epochs: ten\n")
    (folder / "short.yaml").write_text(
        "method: grid\nparameters: {lr: {values: [0.1, 0.2]}}\n"
        'command: [resnet-cli, fit, --config, digits, --config, "${args_json_file}"]\n'
    )
