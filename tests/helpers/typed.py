"""Lines that people type who know other libraries, and what each answer must hold.

`DIGITS` stands for `fit --config digits`, and `RUN` for a run. The lines are refused, all before
torch is imported; `UNDERSTOOD` are lines that are understood as other words.
"""

import re
import shlex

DIGITS = "fit --config digits"
RUN = "runs/digits/depth8"
TYPED = {
    # words of other programs
    "train --config digits": "did you mean fit?",
    "trian --config digits": "did you mean fit?",
    "eval runs/x": "did you mean evaluate?",
    "resume runs/x": "the command that began a run continues it",
    "fit --config digits --best": "resnet-cli evaluate RUN --at best",
    "fit --config digits --num_samples 100": "--data.source Subset",
    "fit --config digits --gres gpu:1": "sbatch OPTIONS slurm/fit.sbatch",
    "fit --config digits --multirun k=1,2": "a sweep trains with several values",
    "fit --config digits --cfg-options lr=1": "each key of a recipe is a flag",
    "fit --config-name digits": "a recipe follows --config",
    "data get mnist": "there is no MNIST: fashion_mnist has clothes",
    "data get imagenette": "unpack fast.ai's imagenette2",
    "data ls": "resnet-cli doctor --quick",
    "srun fit": "srun comes first: srun resnet-cli fit",
    "agent me/p/1": "`wandb agent ID`",
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
    "DIGITS --arch resnet51": "no net has 51 layers: CifarResNet has 20, 32",
    "DIGITS --model vgg16": "did you mean torchvision.models.vgg16?",
    "DIGITS --model.net efficientnet_b0": "did you mean torchvision.models.efficientnet_b0?",
    "DIGITS --model.net ImageNetResnt": "did you mean ImageNetResNet?",
    "DIGITS --model.net foo": "there are CifarResNet, ImageNetResNet",
    "DIGITS --data.source cifar": "did you mean CIFAR10?",
    "DIGITS --data cifar11": "did you mean CIFAR10?",
    "DIGITS --dataset mnist": "FashionMNIST has clothes",
    "DIGITS --data.source ImageFolder": "needs --data.source.root",
    "DIGITS --model.net CifarResNet --model.net.layers 20": "did you mean --model.net.depth?",
    "fit --model.net ImageNetResNet --data.source Digits": "needs --model.net.depth",
    "DIGITS --model.optimizer adan": "did you mean Adam?",
    "DIGITS --model.optimizer lamb": "there are ASGD, Adadelta",
    "DIGITS --model.schedule cosin": "did you mean Cosine?",
    "DIGITS --model.schedule OneCycleLR": "did you mean Cosine?",
    "DIGITS --model.schedule warp": "there are Cosine, ErrorWarmup, Linear, Plateau, Steps",
    "DIGITS --data.policy autoaugment": "did you mean TrivialAugment?",
    "DIGITS --data.policy none": "did you mean null?",
    "DIGITS --trainer.logger wandb": "did you mean --wandb.mode online?",
    "DIGITS --trainer.logger tensorboard": "did you mean TensorBoardLogger?",
    # keys
    "DIGITS --model.depth 56": "did you mean --model.net.depth?",
    "DIGITS --model.lr 1": "did you mean --model.optimizer.lr?",
    "DIGITS --optimiser.lr 0.1": "did you mean --model.optimizer.lr?",
    "DIGITS --epohcs 3": "did you mean --trainer.max_epochs?",
    "DIGITS --trainer.max_epoch 3": "did you mean --trainer.max_epochs?",
    "DIGITS --trainer.epochs 3": "did you mean --trainer.max_epochs?",
    "DIGITS --data.root x": "did you mean --data.source.root?",
    "DIGITS --data.source.root x": "--data x takes a folder of images",
    "DIGITS --data.batchsize 3": "did you mean --data.batch_size?",
    "DIGITS --model.optimizer AdamW --model.optimizer.momentum 0.9": "of AdamW: leave it out, or "
    "give --model.optimizer.betas",
    "DIGITS --model.net.dpth 56": "did you mean --model.net.depth?",
    "DIGITS --model.optimizer.learning_rate 0.1": "of SGD; did you mean --model.optimizer.lr?",
    "DIGITS --run.seed 1": "did you mean --seed_everything?",
    "DIGITS --frobnicate 1": "resnet-cli fit --help tells the options",
    "DIGITS --data.batch_size": "--data.batch_size needs a value: a whole number",
    # values
    "DIGITS --epochs ten": "--trainer.max_epochs must be a whole number or null; got ten; did you "
    "mean 10?",
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
    "fit photos_of_mine": "--config photos --data photos_of_mine",
    "fit mine.yaml": "put --config before a recipe",
    "DIGITS lr=0.1": "write --model.optimizer.lr 0.1",
    "DIGITS model.optimizer.lr=0.1": "write --model.optimizer.lr 0.1",
    "DIGITS +model.ema.decay=0.9": "write --model.ema.decay 0.9",
    "DIGITS ~model.ema": "leave model.ema out, or give --model.ema null",
    # files
    "fit --config nothere.yaml": "cannot read recipe nothere.yaml",
    "fit --config digts": "did you mean digits?",
    "fit --config digits_degradation": "is a sweep, no recipe: resnet-cli sweep",
    "doctor --config nothere.yaml": "cannot read recipe nothere.yaml",
    "sweep digits": "is a recipe, no sweep: resnet-cli fit --config digits",
    "fit --config wrong_key.yaml": "did you mean data.batch_size? (wrong_key.yaml, line 2)",
    "fit --config wrong_value.yaml": "; got ten; did you mean 10? (wrong_value.yaml, line 2)",
    "sweep short.yaml": "parameters are written as full keys: model.optimizer.lr for lr",
    # other verbs
    "validate --config digits --model.net.depth x": "must be a whole number",
    "test --config digits --trainer.max_epoch 3": "did you mean --trainer.max_epochs?",
    "predict --config digits --data.sze 3": "did you mean --data.size?",
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
    "sweep digits_degradation --jobs 3": "did you mean -j?",
    "sweep digits_degradation --submitt": "did you mean --submit?",
    "deepen x.ckpt --depht 20 --out y": "did you mean --depth?",
    "sync runs --evry 3": "did you mean --every?",
    # verbs and their order
    "--config digits fit": "the verb comes first: resnet-cli fit --config digits",
    "--config digits --depth 20": "the verb comes first: resnet-cli fit --config digits --depth 20",
    "'fit --config digits'": "leave the quotes out: resnet-cli fit --config digits",
    "Fit --config digits": "did you mean fit?",
    "rename runs/x y": "--run.label NAME",
    "mv runs/x y": "--run.label NAME",
    "cp runs/x y": "--run.new trains a replicate",
    "stop": "Ctrl-C stops a training",
    "tensorboard": "--trainer.logger TensorBoardLogger",
    "logs": "resnet-cli runs lists the runs",
    "status": "resnet-cli runs tells how far each run is",
    "clean": "did you mean rm?",
    "models": "nets are resnet20, plain20",
    "export-onnx": "did you mean convert?",
    "setup": "did you mean doctor?",
    # words that stand where others are meant
    "validate": "name a run, as resnet-cli runs lists them: resnet-cli validate RUN",
    "predict": "resnet-cli predict RUN IMAGE...",
    "predict RUN --top 3": "resnet-cli predict needs IMAGE",
    "predict RUN --format csv": "resnet-cli predict needs IMAGE",
    "predict a.png": "resnet-cli predict RUN IMAGE...",
    "predict a.png RUN": "the run comes first, then the images: resnet-cli predict runs/",
    "predict photos_of_mine RUN": "resnet-cli predict runs/digits/depth8 photos_of_mine",
    "predict RUN nothere.png": "image nothere.png does not exist",
    "predict RUN '*.jpeg'": "the shell found no file for this pattern",
    "predict RUN --source a.png": "resnet-cli predict RUN IMAGE...",
    "predict RUN a.png --topk 3": "did you mean --top?",
    "predict RUN a.png --csv": "did you mean --format csv?",
    "predict RUN a.png --out x.csv": "--format csv > FILE",
    "predict RUN a.png --device 0": "did you mean cuda:0?",
    "predict RUN a.png --device gpu": "did you mean cuda?",
    "predict RUN a.png --top": "--top needs a value: K",
    "predict --model resnet18": "resnet-cli predict torchvision:resnet18 IMAGE...",
    "predict resnet18 a.png": "weights of torchvision are torchvision:resnet18",
    "predict torchvision:resnet18": "resnet-cli predict torchvision:resnet18 IMAGE...",
    "predict nothere a.png": "run nothere does not exist",
    "evaluate nothere": "resnet-cli runs lists them",
    "evaluate nothere.ckpt": "checkpoint nothere.ckpt does not exist",
    "evaluate runs/digits": "runs/digits holds 2 runs: give one of them, such as runs/digits/depth",
    "evaluate a.png": "a.png is an image, and no run",
    "evaluate RUN RUN": "a word too many; usage: resnet-cli evaluate RUN",
    "evaluate RUN --tta": "did you mean --crops ten?",
    "evaluate RUN --ema": "did you mean --weights ema?",
    "evaluate RUN --crops three": "choose among centre, ten, flip",
    "evaluate RUN --sizes big": "pixels per side, such as 224,256",
    "validate resnet18": "weights of torchvision are torchvision:resnet18",
    "validate runs/digits": "holds 2 runs",
    "validate depht8": "did you mean depth8?",
    "validate RUN RUN": "a word too many: validate takes one run",
    "validate RUN --split test": "test RUN the test images",
    "validate RUN --format json": "the result is JSON",
    "test photos_of_mine": "photos_of_mine is a folder of images and no run",
    "runs photos_of_mine": "photos_of_mine is a folder of images and no run",
    "runs --format json": "did you mean --json?",
    "runs --plain": "colours and progress are left out",
    "export photos_of_mine": "photos_of_mine is a folder of images and no run",
    "export RUN x.tar.gz": "did you mean --out x.tar.gz?",
    "export RUN --format onnx": "resnet-cli convert RUN --out NET.onnx",
    "rm -f RUN": "did you mean --yes?",
    "rm -rf RUN": "did you mean --yes?",
    "rm --force RUN": "did you mean --yes?",
    "rm runs": "runs holds 2 runs",
    "sweep -l digits_degradation": "did you mean --list?",
    "sweep digits_degradation --dry-run": "did you mean --list?",
    "sweep digits_degradation --slurm": "did you mean --submit?",
    "sweep digits_degradation --lr 0.1": "in the sweep's file",
    "sweep digits_degradation --list --local": "exclude each other",
    "sweep --config digits_degradation": "resnet-cli sweep FILE",
    "sweep digts_degradation": "did you mean digits_degradation?",
    "sweep runs/digits": "it is a folder",
    "compare runs --filter depth=56": "did you mean --where 'depth == 56'?",
    "compare runs --reference digits": "resnet-cli compare RUNS reference:digits",
    "inspect gradients nothere": "run nothere does not exist",
    "inspect gradients photos_of_mine": "is a folder of images and no run",
    "inspect weights digits": "did you mean responses?",
    "inspect gradients digits --device 0": "did you mean cuda:0?",
    "deepen RUN 20": "needs --depth D (of the new net)",
    "deepen nothere --depth 20 --out x.ckpt": "run nothere does not exist",
    "convert RUN --format onnx": "the ending of --out tells the format",
    "convert RUN": "resnet-cli convert needs --out FILE",
    "convert nothere.pth --out x.ckpt": "checkpoint nothere.pth does not exist",
    "convert RUN -o x.onnx": "did you mean --out?",
    "data download cifar10": "did you mean get?",
    "data get cifar10 --dir x": "did you mean --root?",
    "data write photos_of_mine --out x.beton": "write image_folder --root photos_of_mine",
    "data write image_folder photos_of_mine --out x.beton": "did you mean --root photos_of_mine?",
    "data info nothere.beton": "resnet-cli data write SOURCE --out nothere.beton",
    "doctor --config digits --depth 9": "try 8 or 14",
    "completion --shell bash": "resnet-cli completion bash",
    # recipes and runs where the other is meant
    "fit --config RUN": "is a run: the command that began it continues it",
    "fit RUN": "so does --config runs/digits/depth8/config.yaml",
    "fit --config runs": "a folder of runs: resnet-cli runs runs lists them",
    "fit --config photos_of_mine": "--config photos --data photos_of_mine",
    "fit --config=": "--config is empty",
    "fit --cfg digits": "a recipe follows --config",
    "fit --depth 20": "train on which images?",
    "fit --data photos_of_mine": "--config photos --data photos_of_mine",
    "fit --data.source.root photos_of_mine": "--config photos --data photos_of_mine",
    "fit --data cifar10": "train which net? give --arch resnet20",
    "fit resnet18": "--arch resnet18",
    "fit --config photos": "resnet-cli data get photos",
    "fit --config photos --data.source.root nothere": "image folder nothere does not exist",
    "fit --config broken.yaml": "broken.yaml: this is not YAML: line 3, column 1",
    "DIGITS --data nowhere": "no folder nowhere here",
    "DIGITS --data ./nowhere": "--data ./nowhere: there is no such folder",
    "DIGITS --data-path x": "--data x takes a folder of images",
    "DIGITS --run.init_from resnet18": "weights of torchvision are torchvision:resnet18",
    "DIGITS --run.init_from resnet18.a1_in1k": "weights of timm are timm:resnet18.a1_in1k",
    "DIGITS --run.init_from nothere": "run nothere does not exist",
    # more names of concepts
    "DIGITS --freeze 10": "no flag freezes layers",
    "DIGITS --save-every 5": "--run.save_minutes MINUTES",
    "DIGITS --cos-lr": "a cosine is --model.schedule Cosine",
    "DIGITS --pin-memory": "the loader does so by itself",
    "DIGITS --model-ema": "--model.ema.decay 0.999",
    "DIGITS --find-lr": "nothing finds a rate by itself",
    "DIGITS --val-dir x": "one folder with train/ and val/",
    "DIGITS --classes 10": "a source knows its classes",
    "DIGITS --in-chans 1": "images always have three channels",
    # more values
    "DIGITS --epochs -1": "must be 1 or more; got -1",
    "DIGITS --epochs 0": "must be 1 or more; got 0",
    "DIGITS --depth 9": "must be 6n+2, got 9; try 8 or 14",
    "DIGITS --arch ImageNetResNet --depth 20": "one of 18, 34, 50, 101, 152; got 20",
    "DIGITS --batch-size 5000": "lower --data.batch_size to 1437",
    "DIGITS --lr 0,1": "did you mean 0.1?",
    "DIGITS --epochs 1,000": "did you mean 1000?",
    "DIGITS --seed 1,2,3": "a sweep trains with several",
    "DIGITS --depth [20,56]": "a sweep trains with several",
    "DIGITS --betas 0.9 0.99": "a list is in brackets: --model.optimizer.betas [0.9,0.99]",
    "DIGITS --cache ram": "did you mean process?",
    "DIGITS --model resnet": "did you mean resnet18?",
    "DIGITS --model vit": "did you mean torchvision.models.vit_b_16?",
    "DIGITS --optimizer Adam --momentum 0.9": "leave it out, or give --model.optimizer.betas",
    "DIGITS \u2014epochs 3": "another sign than two hyphens: --epochs",
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
    "--arch preresnet110 --plain --no-amp -d 8": {
        "model.net.class_path": "lightning_resnet.CifarResNet",
        "model.net.init_args.block": "preact",
        "model.net.init_args.shortcut": "none",
        "model.net.init_args.depth": 8,
        "trainer.precision": "32-true",
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
    line = re.sub(r"\bRUN\b", RUN, line)
    return shlex.split(line.replace("DIGITS", DIGITS))


def write_files(folder):
    """Write the files that the lines name."""
    (folder / "photos_of_mine/train/cat").mkdir(parents=True)
    for image in ("a.png", "photos_of_mine/train/cat/1.png"):
        (folder / image).touch()
    for label, run in (("depth8", "0123456789"), ("depth20", "9876543210")):
        (folder / "runs/digits" / run).mkdir(parents=True)
        (folder / "runs/digits" / run / "metrics.jsonl").touch()
        (folder / "runs/digits" / label).symlink_to(run)
    (folder / RUN / "checkpoints").mkdir()
    (folder / RUN / "checkpoints/last.ckpt").touch()
    (folder / "broken.yaml").write_text("data:\n  batch_size: [1, 2\n")
    (folder / "wrong_key.yaml").write_text("data:\n  batchsize: 3\n")
    (folder / "wrong_value.yaml").write_text("trainer:\n  max_epochs: ten\n")
    (folder / "short.yaml").write_text(
        "method: grid\nparameters: {lr: {values: [0.1, 0.2]}}\n"
        'command: [resnet-cli, fit, --config, digits, --config, "${args_json_file}"]\n'
    )
