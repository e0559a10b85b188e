"""Words of other programs, and what stands for them here: tables for the command line.

Each table is words -> meaning, with spaces between several words of one meaning. A flag may have
dashes where a word has underscores.
"""

from collections.abc import Mapping


def by_word(table: Mapping[str, str]) -> dict[str, str]:
    """Return word -> meaning for a table."""
    return {word: meaning for words, meaning in table.items() for word in words.split()}


# numbers in words, each at its own place
NUMERALS = "zero one two three four five six seven eight nine ten".split()
# owners of repositories on Hugging Face with weights of nets
OWNERS = "microsoft facebook google timm nvidia apple openai laion hf"
# names of recipes that there are not -> the recipe, or what to do
RECIPES = {
    "cifar cifar_10 cifar10_resnet": "cifar10",
    "imagenet_1k imagenet1k ilsvrc ilsvrc2012 in1k": "imagenet",
    "mnist emnist kmnist": (
        "fashion_mnist has clothes in the form of MNIST's digits, and digits has handwritten "
        "digits of 8x8 pixels"
    ),
    "default base config train example tutorial demo quickstart": "digits",
    "folder image_folder imagefolder custom my_data dataset": "photos",
    "pretrained transfer transfer_learning fine_tune": "finetune",
}

# programs that start another one, and so come before resnet-cli
BEFORE = "srun mpirun mpiexec nohup nice time sudo env timeout watch"
# programs that start ranks, which fit does by itself
STARTERS = "launch torchrun python python3 accelerate deepspeed horovodrun lightning fabric"
# what `wandb` does by itself, and not our `sync`
OF_WANDB = "login logout agent sweep init online offline status disabled enabled artifact verify"
# verbs of other programs -> ours, or a sentence
VERBS = {
    "train run start finetune fine_tune pretrain learn": "fit",
    "eval score benchmark_accuracy": "evaluate",
    "val valid validation": "validate",
    "infer inference classify detect": "predict",
    "hpo tune multirun search grid optuna": "sweep",
    "config configs list_recipes presets init new": "recipes",
    "models list_models nets archs list_nets zoo": (
        "nets are resnet20, plain20, preresnet20 and other 6n+2 layers, resnet18 to resnet152, "
        "torchvision.models.NAME, timm.models.NAME: resnet-cli fit --config digits --arch plain20"
    ),
    "v vv vvv verbose version": (
        "resnet-cli --version tells the version; fit -q and sweep -q print less"
    ),
    "best": "runs --sort error",
    "plot report table summary results leaderboard": "compare",
    "diff": "compare --diff",
    "deploy publish_model onnxruntime serve_model": (
        "resnet-cli convert RUN --out NET.onnx writes a net for other programs"
    ),
    "docs doc readme man manual": "resnet-cli --help names the documents; resnet-cli help VERB",
    "cache": "resnet-cli doctor --quick tells what data are here",
    "hub": (
        "weights by name are a word: resnet-cli predict torchvision:resnet18.IMAGENET1K_V1 IMAGE..."
    ),
    "ablate ablation": "inspect lesions",
    "analyze analyse visualize explain": "inspect",
    "list ls ps history": "runs",
    "status watch jobs squeue sacct": (
        "resnet-cli runs tells how far each run is; sweep FILE --status also what SLURM's queue has"
    ),
    "gradcam cam saliency attention": (
        "resnet-cli inspect measures blocks; maps of single images are made by other packages, "
        "from the net that lightning_resnet.load(RUN) returns (docs/python.md)"
    ),
    "flops macs params parameters count summary_net profile_net": (
        "fit --config digits --run.dry tells parameters, time and memory of a training"
    ),
    "ensemble average soup swa distill quantize prune_net": (
        "no verb does it; lightning_resnet.load(RUN) returns a net for a script (docs/python.md)"
    ),
    "notebook jupyter script api": "from Python: import lightning_resnet (docs/python.md)",
    "unpack extract import untar restore": (
        "tar -xzf FILE unpacks what export has packed; the folder is a run again"
    ),
    "update upgrade uninstall pip conda uv git make": (
        "resnet-cli does not change what is installed: pip, or make in a checkout, does"
    ),
    "nvidia_smi top gpustat": "resnet-cli doctor --quick tells what this machine has",
    "quit exit": "resnet-cli returns by itself after each verb",
    "verify": "data verify",
    "unfreeze freeze": (
        "no verb freezes layers; deepen RUN --depth D --out NEW.ckpt --freeze trains added blocks "
        "alone"
    ),
    "delete remove del clean prune purge": "rm",
    "save pack archive zip backup": "export",
    "onnx export_onnx torchscript to_onnx export_model": "convert",
    "dataset datasets": "data",
    "download fetch": "data get",
    "prepare preprocess ffcv": "data write",
    "check env info setup install diagnose": "doctor",
    "benchmark speed profile perf": "bench",
    "upload wandb push publish": "sync",
    "demo example quickstart": "fit --config digits",
    "resume continue restart": (
        "the command that began a run continues it: resnet-cli fit ...; without it, resnet-cli fit "
        "--config RUN/config.yaml does"
    ),
    "agent": "sweep FILE trains here or on SLURM; W&B's own agents run it by `wandb agent ID`",
    "lr_find find_lr lr_finder": (
        "nothing finds a rate by itself; a sweep compares some: resnet-cli recipes digits_lr_range"
    ),
    STARTERS: "fit starts the ranks itself: resnet-cli fit --config digits --trainer.devices 2",
    "rename mv move": (
        "fit names a run with --run.label NAME; a link next to a run names one that is there: ln "
        "-s ID runs/RECIPE/NAME"
    ),
    "cp copy duplicate clone": "fit --run.new trains a replicate; resnet-cli export packs a run",
    "stop kill cancel abort scancel": (
        "Ctrl-C stops a training, and the same command continues it; sweep FILE --cancel cancels "
        "the jobs of a sweep"
    ),
    "log logs tail show cat": (
        "resnet-cli runs lists the runs; metrics.jsonl in a run's folder holds each value; sweep "
        "FILE --status names the log of each point that failed; sbatch writes fit-JOB.log where it "
        "was called"
    ),
    "tensorboard tb ui dashboard gui serve web": (
        "resnet-cli compare RUNS --serve shows the curves in a browser while runs grow; fit takes "
        "--trainer.logger TensorBoardLogger and --wandb.mode online"
    ),
    "login": "wandb login stores a key of W&B; fit --wandb.mode online uses it",
    "srun mpirun": "srun comes first: srun resnet-cli fit --config digits",
    "submit sbatch slurm queue": (
        "sweep FILE --submit submits a sweep; one training is sbatch OPTIONS fit.sbatch --config "
        "digits, after resnet-cli recipes fit.sbatch > fit.sbatch"
    ),
    "open cd": "resnet-cli runs tells the folders",
}
# short names in which no key of a recipe ends, or several do -> key
KEYS = {
    "epochs num_epochs train_epochs n_epochs nb_epochs num_train_epochs nepochs": (
        "trainer.max_epochs"
    ),
    "steps iterations iters max_iters num_steps max_iter": "trainer.max_steps",
    "lr learning_rate base_lr lr0 init_lr initial_lr": "model.optimizer.lr",
    "wd weight_decay l2": "model.optimizer.weight_decay",
    "momentum": "model.optimizer.momentum",
    "nesterov": "model.optimizer.nesterov",
    "betas": "model.optimizer.betas",
    "opt optim": "model.optimizer",
    "sched scheduler lr_scheduler lr_schedule lr_policy lr_scheduler_type": "model.schedule",
    "arch architecture model_name network backbone": "model.net",
    "depth layers num_layers": "model.net.depth",
    "shortcut": "model.net.shortcut",
    "width": "model.net.width",
    "at": "model.schedule.at",
    "num_classes nc n_classes nb_classes": "model.net.num_classes",
    "norm norm_layer bn batch_norm": "model.net.norm",
    "cudnn_benchmark": "trainer.benchmark",
    "init": "model.net.init",
    "block": "model.net.block",
    "criterion loss_fn": "model.loss",
    "smoothing label_smoothing_factor": "model.label_smoothing",
    "torchcompile torch_compile torch_compile_mode": "model.compile",
    "ema_decay model_ema_decay": "model.ema.decay",
    "mixup mixup_alpha": "model.mix.mixup",
    "cutmix cutmix_alpha": "model.mix.cutmix",
    "use_deterministic_algorithms": "trainer.deterministic",
    "dataset dataset_name": "data.source",
    "batch bs train_batch_size total_batch_size global_batch_size": "data.batch_size",
    "num_workers n_workers num_data_workers dataloader_num_workers": "data.workers",
    "img_size image_size input_size crop_size resolution imgsz img train_crop_size": "data.size",
    "data_dir data_path data_root dataset_path train_dir train_data": "data.source.root",
    "hflip": "data.flip",
    "random_erasing random_erase reprob": "data.erase",
    "seed random_seed manual_seed": "seed_everything",
    "nodes nnodes": "trainer.num_nodes",
    "device": "trainer.accelerator",
    "num_devices ngpus num_gpus nproc_per_node nproc num_processes": "trainer.devices",
    "grad_clip clip_grad clip_grad_norm clip max_norm max_grad_norm": "trainer.gradient_clip_val",
    "accumulate grad_accum grad_accum_steps gradient_accumulation_steps": (
        "trainer.accumulate_grad_batches"
    ),
    "log_interval log_freq print_freq log_every log_steps logging_steps": (
        "trainer.log_every_n_steps"
    ),
    "val_every eval_every eval_interval eval_freq val_interval": "trainer.check_val_every_n_epoch",
    "dtype amp_dtype": "trainer.precision",
    "exp exp_name experiment experiment_name run_name": "run.name",
    "label tag rename": "run.label",
    "dry_run dryrun": "run.dry",
    "num_threads": "run.threads",
    "wandb_project": "wandb.project",
    "wandb_entity": "wandb.entity",
}
# argument that a class does not have -> the one in its place
INSTEAD = {
    "momentum beta1 beta2": "betas",
    "betas": "momentum",
    "milestones step_size": "at",
    "t_max eta_min": "end",
}
# flags of one letter, of fit alone -> key
LETTERS = {
    "a": "model.net",
    "b": "data.batch_size",
    "d": "model.net.depth",
    "e": "trainer.max_epochs",
    "j": "data.workers",
    "s": "seed_everything",
}
# flags that need no value -> key and value
SWITCHES = {
    "amp bf16 native_amp use_amp": "trainer.precision=bf16-mixed",
    "fp16 half": "trainer.precision=16-mixed",
    "fp32 no_amp": "trainer.precision=32-true",
    "cpu no_cuda no_gpu": "trainer.accelerator=cpu",
    "cuda gpu": "trainer.accelerator=gpu",
    "mps": "trainer.accelerator=mps",
    "tpu": "trainer.accelerator=tpu",
    "debug": "trainer.fast_dev_run=true",
    "channels_last": "model.channels_last=true",
    "bce_loss": "model.loss=bce",
    "sync_bn": "trainer.sync_batchnorm=true",
    "plain no_shortcut no_residual no_skip": "model.net.shortcut=none",
}
# last parts of keys that say too little alone
NO_SHORT = "decay mode details point code root scale ckpt_path".split()
# names of a checkpoint, which all verbs but fit take
CHECKPOINTS = "ckpt_path ckpt checkpoint weights resume load".split()
# names of what has no key of its own -> what to do
SAID = {
    "resume resume_from resume_from_checkpoint auto_resume restart ckpt_path ckpt checkpoint "
    "continue": (
        "the same command continues a run that was stopped, and --run.init_from FILE starts a new "
        "one from its weights"
    ),
    "pretrained weights initial_checkpoint load load_from finetune model_name_or_path": (
        "--run.init_from FILE starts from the weights of a checkpoint or run, --run.init_from "
        "torchvision:NAME, timm:NAME or hf:ORG/REPO from those of others"
    ),
    "output out o output_dir outdir out_dir save_dir savedir log_dir logdir work_dir root_dir "
    "checkpoint_dir save save_path model_dir models_dir logs": (
        "runs lie in ROOT/NAME/ID: give --run.root ROOT, --run.name NAME"
    ),
    "local_rank port timeout backend world_size rank dist_url dist_backend ddp distributed "
    "master_port master_addr node_rank multiprocessing_distributed": (
        "fit starts the ranks itself: give --trainer.devices N, or start it by srun or torchrun"
    ),
    "report_to logger_name track tracker": (
        "W&B is --wandb.mode online or disabled, TensorBoard --trainer.logger TensorBoardLogger"
    ),
    "wandb log_wandb use_wandb": "W&B is --wandb.mode online or offline, --wandb.project NAME",
    "no_wandb": "W&B is off with --wandb.mode disabled",
    "wandb.name wandb_name wandb_run_name": (
        "W&B names a run by its net and seed, and --run.name NAME is its group there"
    ),
    "run.dir run.path run.folder run.id run_id id": (
        "runs lie in ROOT/NAME/ID, and the settings make the ID: give --run.root ROOT, --run.name "
        "NAME"
    ),
    "notes tags": "a note on a run is its readable name, --run.label TEXT",
    "tensorboard": (
        "give --trainer.logger TensorBoardLogger (pip install tensorboard); metrics.jsonl holds "
        "each run's values"
    ),
    "do_train": "fit trains: leave it out",
    "evaluate eval": (
        "resnet-cli validate measures a trained run, resnet-cli evaluate in several ways"
    ),
    "test_only test validate val eval_only only_validate do_eval do_test do_predict": (
        "resnet-cli validate measures a trained run, resnet-cli test its test images"
    ),
    "warmup": "warm-up is a part of the schedule: --model.schedule.warmup SHARE, from 0 to below 1",
    "warmup_epochs lr_warmup_epochs lr_warmup_method warmup_steps warmup_iters": (
        "warm-up is a part of the schedule: --model.schedule Cosine --model.schedule.warmup_epochs "
        "N"
    ),
    "warmup_ratio": "it is --model.schedule.warmup SHARE, from 0 to below 1",
    "cooldown_epochs cooldown lr_cycle_mul lr_cycle_limit": (
        "schedules have no cycles and no cool-down: --model.schedule Cosine, Linear, Steps or "
        "Plateau"
    ),
    "warmup_lr lr_warmup_decay": (
        "warm-up begins at a share of --model.optimizer.lr: --model.schedule Cosine "
        "--model.schedule.start SHARE"
    ),
    "min_lr eta_min lr_min": (
        "--model.schedule Cosine --model.schedule.end takes the last rate as a share of "
        "--model.optimizer.lr"
    ),
    "gamma lr_gamma decay_rate lr_decay": "Steps has it: --model.schedule.gamma",
    "lr_step_size milestones decay_epochs lr_steps": (
        "Steps has its steps as shares of the training: --model.schedule.at [0.5,0.75]"
    ),
    "cos_lr cosine": "a cosine is --model.schedule Cosine",
    "auto_lr_find find_lr lr_find lr_finder": (
        "nothing finds a rate by itself; a sweep compares some (resnet-cli recipes digits_lr_range)"
    ),
    "activation act": "our nets have ReLU; a net of your own is --model.net module.Class",
    "dropout drop drop_path drop_rate": (
        "our nets have none; a net of your own is --model.net module.Class"
    ),
    "in_chans in_channels channels grayscale gray": (
        "images always have three channels; grey ones are repeated"
    ),
    "freeze freeze_backbone freeze_layers linear_probe unfreeze": (
        "no flag freezes layers; a callback of your own does, --trainer.callbacks module.Class "
        "(docs/extending.md), and resnet-cli deepen RUN --depth D --out NEW.ckpt --freeze trains "
        "added blocks alone"
    ),
    "aa augment auto_augment augmentation augmentations auto_aug": (
        "augmentation is --data.policy TrivialAugment, RandAugment, ..."
    ),
    "patience": (
        "early stopping is --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss "
        "--trainer.callbacks.patience N"
    ),
    "early_stopping": (
        "it is --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss"
    ),
    "decay": (
        "give --model.optimizer.weight_decay NUMBER, or --model.decay weights|all (what it acts on)"
    ),
    "root": "give --data.source.root DIR for images, or --run.root DIR for runs",
    "val_split val_ratio train_split split validation_split": (
        "a source knows its splits; --data.source.holdout N validates on N of the training images"
    ),
    "val_dir val_data val_path validation_data": (
        "--data FOLDER takes one folder with train/ and val/ in it, each with one folder per class"
    ),
    "classes": (
        "a source knows its classes: one folder each for --data FOLDER; --model.net.num_classes N "
        "is their number"
    ),
    "download": "resnet-cli data get cifar10, cifar100 or fashion_mnist gets a data set",
    "pin_memory pin_mem persistent_workers prefetch prefetch_factor prefetcher no_prefetcher": (
        "the loader does so by itself; --data.workers N is the number of threads that read images"
    ),
    "model_ema use_ema": "--model.ema.decay 0.999 keeps a moving average of the weights",
    "save_every save_period save_freq save_interval checkpoint_interval save_steps "
    "recovery_interval save_strategy": (
        "checkpoints are written after each epoch, and within one each --run.save_minutes MINUTES; "
        "--run.keep_epochs N keeps the weights of every N-th"
    ),
    "save_top_k save_best checkpoint_hist save_total_limit save_last load_best_model_at_end": (
        "--run.keep all, weights or none tells which checkpoints stay"
    ),
    "jit torchscript script": (
        "--model.compile true compiles the net; resnet-cli convert RUN --out NET.onnx writes it "
        "for others"
    ),
    "v verbose log_level loglevel info": (
        "-q prints less, and metrics.jsonl of the run holds each value"
    ),
    "overwrite exist_ok force f y yes overwrite_output_dir": (
        "a run is never overwritten: --run.new begins another one"
    ),
    "cfg recipe file yaml config_file conf r": "a recipe follows --config",
    "list list_models list_recipes": "resnet-cli recipes lists the recipes",
    "version": "resnet-cli --version tells it",
    "residual skip": "--model.net.shortcut A, B or C adds shortcuts; none leaves them out",
    "best": "the best epoch is measured by resnet-cli evaluate RUN --at best",
    "num_samples limit subset max_samples n_samples max_train_samples num_train_samples": (
        "part of the images is --data.source Subset --data.source.source Digits "
        "--data.source.per_class 10, and of the steps --trainer.limit_train_batches 100"
    ),
    "max_eval_samples max_val_samples": (
        "part of the validation is --trainer.limit_val_batches 10"
    ),
    "bn_momentum bn_eps": (
        "batch norm's momentum and epsilon are torch's, 0.1 and 1e-5; "
        "--model.precise_bn STEPS measures the statistics before each evaluation"
    ),
    "dist_bn": (
        "all ranks evaluate with the statistics of the first; "
        "--trainer.sync_batchnorm true takes them over all ranks"
    ),
    "drop_last dataloader_drop_last": (
        "an epoch always ends with its last full batch, and validation takes all "
        "images: leave it out"
    ),
    "shuffle": (
        "training images are always shuffled, and others never: leave it out; --data.order pages "
        "is for files larger than memory"
    ),
    "use_multi_epochs_loader": "the workers live as long as the training: leave it out",
    "no_aug no_augment no_augmentation": (
        "augmentation is left out by --data.crop none --data.flip false --data.policy null"
    ),
    "ddp_find_unused_parameters find_unused_parameters": (
        "give --trainer.strategy ddp_find_unused_parameters_true"
    ),
    "trainer.gpus": "give --trainer.devices N --trainer.accelerator gpu",
    "trainer.tpu_cores tpu_cores": "give --trainer.devices N --trainer.accelerator tpu",
    "trainer.num_processes": "give --trainer.devices N",
    "trainer.weights_summary": "--trainer.enable_model_summary false leaves the summary out",
    "evaluation_strategy eval_strategy logging_strategy": (
        "validation follows each epoch, or each --trainer.check_val_every_n_epoch N epochs; "
        "--trainer.log_every_n_steps N logs more often"
    ),
    "metric_for_best_model best_metric eval_metric": (
        "the best epoch is the one of the highest val/acc1; resnet-cli evaluate RUN --at best "
        "measures it"
    ),
    "push_to_hub hub_model_id hub_token": (
        "nothing is uploaded; resnet-cli convert RUN --out NET.safetensors writes weights that "
        "can be"
    ),
    "per_device_train_batch_size per_gpu_train_batch_size local_batch_size batch_per_gpu": (
        "--data.batch_size counts the images of all devices together"
    ),
    "per_device_eval_batch_size eval_batch_size val_batch_size test_batch_size": (
        "the batches of an evaluation do not change its result, and follow --data.batch_size"
    ),
    "adam_beta1 adam_beta2 beta1 beta2 opt_betas adam_betas": (
        "--model.optimizer AdamW --model.optimizer.betas [0.9,0.999]"
    ),
    "opt_eps adam_epsilon epsilon": "--model.optimizer AdamW --model.optimizer.eps 1e-8",
    "layer_decay llrd": "all layers learn at one rate; an optimizer of your own is module.Class",
    "ignore_mismatched_sizes": (
        "--run.init_from makes the last layer new where the number of classes differs: leave it out"
    ),
    "mixup_prob mixup_switch_prob mixup_mode mixup_off_epoch cutmix_minmax": (
        "each batch is mixed: --model.mix.mixup ALPHA, --model.mix.cutmix ALPHA"
    ),
    "remode recount random_erasing_mode": (
        "--data.erase PROBABILITY erases a rectangle of an image"
    ),
    "color_jitter colorjitter hsv_h hsv_s hsv_v degrees translate shear perspective mosaic "
    "close_mosaic copy_paste rotation": (
        "colours and shapes are changed by --data.policy TrivialAugment or RandAugment"
    ),
    "vflip flipud": "images are flipped left to right alone: --data.flip true",
    "fliplr": "--data.flip true flips an image with probability 1/2",
    "crop_mode": (
        "--data.crop is of training; the central share in tests is --data.eval_share SHARE"
    ),
    "clip_mode": "gradients are clipped by norm: --trainer.gradient_clip_val NORM",
    "scale": "--data.scale [0.08,1.0] is the area of random crops, as a share of the image's",
    "ratio": ("crops have aspect ratios from 3/4 to 4/3; their area is --data.scale [0.08,1.0]"),
    "model_ema_steps": "--model.ema.decay 0.999 averages after each step",
    "single_cls": "a source knows its classes: one folder each for --data FOLDER",
    "cn": "a recipe follows --config, such as --config digits",
    "config_path config_dir cp cd": "a recipe follows --config: --config FOLDER/RECIPE.yaml",
    "val_crop_size val_size eval_size test_size": (
        "training and validation are at --data.size; resnet-cli evaluate RUN --sizes 224,256 "
        "measures others"
    ),
    "mean std normalize normalization": (
        "images are normalised by the mean and deviation of their source; a source of your own "
        "has others (docs/extending.md)"
    ),
    "grad_checkpointing gradient_checkpointing": (
        "no flag saves memory so; --trainer.accumulate_grad_batches N with the same "
        "--data.batch_size does"
    ),
    "norm_weight_decay bias_weight_decay no_bias_decay": (
        "--model.decay weights leaves norms and biases out, all does not"
    ),
    "interpolation train_interpolation": "--data.resize area is another filter than bilinear",
    "ra_sampler ra_reps repeated_aug aug_repeats": (
        "repeated augmentation is --data.order repeat --data.repeats N"
    ),
    "val_resize_size crop_pct resize_size": (
        "the central square is a share of the shorter side: --data.eval_share SHARE"
    ),
    "cache_dataset cache_images": "--data.cache tells how .beton files are cached",
    "start_epoch": "the same command continues a run where it stopped",
    "no_validate no_val": "--trainer.limit_val_batches 0 leaves the validation out",
    "fsdp deepspeed zero multi_gpu": "--trainer.devices N exchanges gradients by ddp",
    "cv folds fold k_fold kfold cross_validation": (
        "one run has one split: --data.source.holdout N validates on N of the training images"
    ),
    "class_weights class_weight balanced sampler weighted weighted_sampler data.sampler": (
        "classes weigh the same; a loss of your own is --model.hooks module.Class "
        "(docs/extending.md)"
    ),
    "transforms transform": "images are changed by --data.crop, --data.flip and --data.policy",
    "metric metrics extra_metrics": (
        "loss and accuracies are always measured; a callback of your own adds others "
        "(docs/extending.md)"
    ),
    "progress progress_bar quiet quiet_mode silent": "fit -q prints less",
    "tf32 allow_tf32": "give --trainer.matmul_precision high",
    "swa": "--model.ema.decay 0.999 keeps a moving average of the weights",
    "teacher distillation distill prune quantize": (
        "no flag does it; a loss or a callback of your own does (docs/extending.md)"
    ),
    "summary model_summary": "--run.dry tells parameters, multiply-adds, time and memory",
    "lookahead sam": "an optimizer of another package is --model.optimizer module.Class",
    "gpu_ids gpu_id cuda_device": "--trainer.devices [0,1] tells which GPUs to use",
    "auto_scale_lr scale_lr": (
        "the rate is of --data.batch_size, on any number of devices: give --model.optimizer.lr"
    ),
    "trainer.distributed_backend": "--trainer.devices N exchanges gradients by itself (ddp)",
    "trainer.progress_bar_refresh_rate": "fit -q prints less",
    "trainer.amp_backend trainer.amp_level amp_level amp_opt_level opt_level": (
        "give --trainer.precision bf16-mixed"
    ),
    "chain": "an end without requeueing is sweep FILE --submit --chain N",
    "steps_per_epoch": "an epoch is cut by --trainer.limit_train_batches N",
    "cfg_options set override opts option options param": (
        "each key of a recipe is a flag, such as --model.optimizer.lr 0.1"
    ),
    "config_name": "a recipe follows --config, such as --config digits",
    "m multirun": (
        "a sweep trains with several values: resnet-cli recipes digits_degradation > my.yaml"
    ),
    "partition p time mem gres array job_name account qos nodelist cpus_per_task ntasks n "
    "ntasks_per_node": (
        "it is an option of sbatch, and comes before the script: sbatch OPTIONS fit.sbatch "
        "--config digits, after resnet-cli recipes fit.sbatch > fit.sbatch"
    ),
    "early_stop": (
        "early stopping is --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss"
    ),
    "tensorboard_dir": "give --trainer.logger TensorBoardLogger (pip install tensorboard)",
    "num runs_count repeat n_seeds seeds": (
        "one run has one seed, --seed N; a sweep trains several: resnet-cli sweep "
        "digits_degradation"
    ),
}
# key -> words for a value -> the value
VALUES = {
    "trainer.precision": {
        "fp16 float16 half mixed16 mixed_float16 fp16_mixed float16_mixed": "16-mixed",
        "amp mixed bfloat16 bfloat bf mixed_bfloat16": "bf16-mixed",
        "fp32 float32 full": "32-true",
        "fp64 float64": "64-true",
        "true yes on 1": "bf16-mixed",
        "false no off none 0": "32-true",
        "tf32": "--trainer.matmul_precision high",
    },
    "trainer.logger": {
        "wandb": "--wandb.mode online",
        "tensorboard": "TensorBoardLogger",
        "csv": "CSVLogger",
    },
    "data.on_bad": {"skip ignore drop warn leave_out": "count"},
    "trainer.accelerator": {
        "nvidia rocm amd hip": "gpu",
        "ddp dp ddp_spawn": "several devices exchange gradients by themselves: --trainer.devices N",
    },
    "trainer.devices": {
        "all every max": "-1",
        "none cpu": "1 --trainer.accelerator cpu",
        "0": "[0] is the first GPU, and --trainer.accelerator cpu trains on the CPU",
        "gpu cuda cuda:0 gpu:0": "[0] --trainer.accelerator gpu",
    },
    "deepen --arm": {
        "identity zero same": "keep",
        "random scratch": "find",
    },
    "launcher": {
        "pytorch ddp elastic dist": "torchrun",
        "srun sbatch": "slurm",
        "none": "local",
    },
    "trainer.callbacks": {
        "reducelronplateau": "--model.schedule Plateau",
        "learningratescheduler lrscheduler": "--model.schedule Cosine",
        "tensorboard": "--trainer.logger TensorBoardLogger",
        "csvlogger": "--trainer.logger CSVLogger",
        "swa ema": "--model.ema.decay 0.999",
    },
    "compare --x": {
        "epochs": "epoch",
        "steps iterations iters": "step",
        "seconds hours wall_time walltime": "time",
        "lr learning_rate depth width batch_size seed shortcut net params weight_decay": (
            "a figure is by time or steps, and a setting makes rows: --rows lr"
        ),
    },
    "compare --metric": {
        "acc accuracy acc1 top1 top_1 val_acc val_acc1 val_accuracy error err val_err val_error "
        "top1_error val/acc val/accuracy val/error": "val/acc1",
        "loss val_loss": "val/loss",
        "acc5 top5 top_5 val_acc5": "val/acc5",
        "train_loss": "train/loss",
        "train_acc train_acc1 train_accuracy train/acc": "train/acc1",
        "test_acc test_acc1 test_accuracy test/acc": "test/acc1",
    },
    "compare --panels": {
        "gradients gradient grads grad grad_norms gradientnorms gradient_norms": "grad_norm",
        "responses response responsestds response_stds std": "response_std",
        "addedblocks added_blocks identity distance": "identity_distance",
        "scale scales branch_scales": "branch_scale",
    },
    "evaluate --crops": {"10 tencrop 10crop ten_crop": "ten", "1 center center_crop one": "centre"},
    "evaluate --weights": {"best": "--at best", "last": "--at last", "raw model": "net"},
    "predict --weights": {
        "best last": (
            "the best epoch's checkpoint is given as the run is: resnet-cli predict "
            "RUN/checkpoints/best.ckpt IMAGE..."
        ),
        "raw model": "net",
    },
    "evaluate --split": {"validation valid eval": "val", "training": "train"},
    "runs --sort": {
        "acc accuracy acc1 top1 best loss val_acc": "error",
        "date time age new newest old started created mtime": "began",
        "epoch epochs steps progress": "step",
        "bytes disk": "size",
    },
    "model.schedule": {
        "cosineannealinglr cosineannealing onecycle onecyclelr cos cosine_annealing": "Cosine",
        "step steplr multisteplr multistep": "Steps",
        "linearlr poly polynomial polynomiallr": "Linear",
        "reducelronplateau reduce_on_plateau": "Plateau",
        "none constant fixed off no null": (
            "a constant rate is --model.schedule Steps --model.schedule.at []"
        ),
    },
    "model.net": {
        "resnet": "resnet18",
        "plain plainnet": "plain20",
        "list help all": "resnet-cli fit --model.net.help lists the nets",
        "preresnet preactresnet": "preresnet110",
        "wideresnet wide_resnet wrn": "torchvision.models.wide_resnet50_2",
    },
    "model.optimizer": {
        "auto default": "SGD",
        "lamb lars lion adamp sophia fusedadam": (
            "an optimizer of another package is --model.optimizer module.Class, such as "
            "timm.optim.Lamb"
        ),
        "fusedadamw adamw_torch adamw_hf": "AdamW",
        "momentum nesterov sgd_momentum": "SGD",
    },
    "model.loss": {
        "ce crossentropy nll crossentropyloss softmax categorical_crossentropy "
        "sparse_categorical_crossentropy": "cross_entropy",
        "bcewithlogits bcewithlogitsloss binary_cross_entropy": "bce",
        "focal mse custom": "a loss of your own is --model.hooks module.Class (docs/extending.md)",
    },
    "model.net.norm": {
        "bn batchnorm batch_norm bn2d batchnorm2d true": "batch",
        "false no identity null": "none",
    },
    "model.net.init": {"kaiming kaiming_normal msra he_normal": "he", "glorot": "xavier"},
    "model.compile": {"inductor default on": "true", "off none": "false"},
    "wandb.mode": {"true on yes": "online", "false off no none": "disabled"},
    "run.keep": {"best last": "weights", "no nothing": "none"},
    "data.crop": {
        "random random_resized rrc randomresizedcrop": "resized",
        "random_crop padding padded": "pad",
        "center centre no false": "none",
    },
    "data.flip": {"horizontal random 0.5": "true", "none": "false"},
    "model.optimizer.weight_decay": {"none null no off false": "0"},
    "model.label_smoothing": {"none null no off false": "0"},
    "data.erase": {"none null no off false": "0"},
    "data.order": {"random shuffle shuffled": "global", "quasi_random": "pages"},
    "data.loader": {"pytorch dataloader": "torch", "gpu": "device", "beton": "ffcv"},
    "data.workers": {"max all _1": "auto", "none no off": "0"},
    "model.optimizer.momentum": {"none null no off false": "0"},
    "model.mix.mixup": {"true on yes": "0.2", "none null no off false": "0"},
    "model.mix.cutmix": {"true on yes": "1.0", "none null no off false": "0"},
    "model.net.shortcut": {
        "identity zero_pad option_a pad": "A",
        "projection option_b conv": "B",
        "plain null no false": "none",
        "true yes on residual": "A, B or C adds shortcuts",
    },
    "data.policy": {
        "autoaugment autoaug augmix trivialaugmentwide": "TrivialAugment",
    },
    "data.source": {
        "fashion": "FashionMNIST",
        "mnist emnist kmnist qmnist": (
            "FashionMNIST has clothes in the form of MNIST's digits, Digits has digits of 8x8 "
            "pixels, and --data FOLDER takes any images in one folder per class"
        ),
    },
    "data.cache": {
        "ram memory true": "process",
        "disk page": "os",
    },
}
# flag of several verbs -> words that stand for it where a verb has it
SAME = {
    "--out": "output o out_dir output_dir outdir outfile save save_path save_dir dest dst target f",
    "--root": "dir data_dir data_path output_dir folder path run_dir run_root to",
    "--size": "imgsz img_size image_size resolution input_size",
    "--yes": "y f force rf r fr no_confirm recursive",
    "--json": "format_json as_json j",
    "--depth": "layers num_layers n_layers layer to add",
    "--threads": "workers num_workers j",
    "--ranks": "devices gpus nproc nproc_per_node",
    "--workers": "num_workers j jobs",
    "--accelerator": "device",
    "--recipe": "config c cfg",
    "--net": "model arch",
    "--batch": "batch_size bs b",
    "--batches": "n num_batches n_batches steps",
    "--top": "k topk top_k n",
    "--trust": "allow_code trust_remote_code unsafe",
    "--points": "resolution grid grid_size",
    "--draws": "iterations iters steps",
    "--watch": "follow f w live refresh",
    "--serve": "watch follow live open browser web http show",
    "--metric": "y metrics",
    "--x": "x_axis xaxis",
    "--split": "subset on set",
    "--from": "mirror url source file",
    "--short-side": "size resize img_size resolution max_resolution",
}
# switch of a verb that is given a number -> flag that takes the number; empty: none does
NUMBER_OF = {
    "sync --watch": "--every",
    "runs --watch": "",
    "compare --serve": "--port",
    "sweep --local": "-j",
    "sweep --submit": "--throttle",
}
# words for a place of a command line that needs no flag
PLACES = (
    "model weights run runs ckpt ckpt_path checkpoint source src images image input file data img "
    "path target name net dataset folder"
)
# verb -> first words that stand for a flag or for another verb
SUBWORDS = {
    "runs": {
        "ls list all show status": "runs",
        "rm remove delete clean": "rm",
        "compare plot diff": "compare",
        "export save": "export",
        "watch follow": "runs --watch",
        "sync upload": "sync",
    },
    "recipes": {"ls list all": "recipes", "show cat get print copy": "recipes"},
    "sweep": {
        "run start launch agent local": "sweep --local",
        "submit sbatch slurm": "sweep --submit",
        "status logs": "sweep --status",
        "cancel stop kill": "sweep --cancel",
        "retry resume": "sweep --retry-failed",
        "ls list show print dry": "sweep --list",
        "create init new make": "recipes digits_degradation >",
    },
    "sync": {"run all wandb up push": "sync"},
    "compare": {"run all ls list": "compare", "diff": "compare --diff", "plot": "compare"},
    "rm": {"run": "rm"},
    "export": {"run": "export"},
    "doctor": {"check all quick system": "doctor --quick"},
}
# verb with flags of its own (empty: any) -> words -> flag, or what to do
FLAGS = {
    "": {
        "v verbose debug vv": "-q of fit and sweep prints less; no verb prints more",
        "plain no_color no_progress color": (
            "colours and progress are left out where no terminal reads"
        ),
        "h? usage": "--help",
        "at best": "the best epoch's checkpoint is given as the run is: RUN/checkpoints/best.ckpt",
    },
    "predict": {
        "csv": "--format csv",
        "json": "--format json",
        "gpu cuda": "--device cuda",
        "ema": "--weights ema",
        "at best last epoch": (
            "the best epoch's checkpoint is given as the run is: resnet-cli predict "
            "RUN/checkpoints/best.ckpt IMAGE..."
        ),
        "recursive r": "folders of images are read with all folders in them: leave it out",
        "stream live webcam video": "images are files: resnet-cli predict RUN IMAGE...",
        "o out output save save_txt output_dir save_dir": (
            "the rows go to the standard output: resnet-cli predict RUN IMAGE... --format csv > "
            "FILE"
        ),
        "images image input source i files img path": (
            "images follow the run as words: resnet-cli predict RUN IMAGE..."
        ),
        "run model_path": "the run is the first word: resnet-cli predict RUN IMAGE...",
        "conf threshold": "each image gets its --top K classes, whatever their probability",
        "labels classes class_names label_map": "a run or checkpoint has the names of its classes",
        "show view plot": "a table is printed; --format csv or json is for programs",
        "pretrained": (
            "weights by name are the first word: resnet-cli predict "
            "torchvision:resnet50.IMAGENET1K_V2 IMAGE..."
        ),
    },
    "validate": {
        "run runs": "the run is the first word: resnet-cli validate RUN",
        "split subset on": (
            "resnet-cli validate RUN measures the validation images, test RUN the test images"
        ),
        "top topk k": "the result has the accuracies of the first and of the first five classes",
        "format output out o csv save save_path save_dir": (
            "the result is JSON on the standard output: add > FILE"
        ),
        "v verbose debug": "the result has all that is measured: leave it out",
        "ema use_ema": "resnet-cli evaluate RUN --weights ema measures averaged weights",
        "crops sizes bn tta": "resnet-cli evaluate RUN has it",
        "at best": "resnet-cli evaluate RUN --at best measures the best epoch",
        "pretrained": (
            "weights by name are the first word: resnet-cli validate "
            "torchvision:resnet50.IMAGENET1K_V2 --data FOLDER"
        ),
        "metric metrics": "loss and accuracy are always told: leave it out",
    },
    "evaluate": {
        "tta": "--crops flip, or --crops ten with --sizes N below the images' size",
        "flip": "--crops flip",
        "ten_crop": "--crops ten",
        "format": "--json",
        "gpu cuda": "--device cuda",
        "run": "the run is a word: resnet-cli evaluate RUN",
        "crop": "--crops",
        "ema": "--weights ema",
        "precise_bn": "--bn precise",
        "best": "--at best",
        "top topk k": "top-1 and top-5 error are always told: leave it out",
        "out output o csv": "the table goes to the standard output: add --json > FILE",
        "wrong errors misclassified list_wrong save_predictions": (
            "--predictions FILE.csv writes label, prediction and path of each image"
        ),
        "metric metrics loss": "top-1 and top-5 error are always told: leave it out",
        "pretrained": (
            "weights by name are the first word: resnet-cli evaluate "
            "torchvision:resnet50.IMAGENET1K_V2 --data FOLDER"
        ),
    },
    "sweep": {
        "jobs parallel workers n procs num_workers": "-j",
        "l ls dry_run dry show n_dry": "--list",
        "run start go": "--local",
        "slurm sbatch cluster": "--submit",
        "retry resume_failed": "--retry-failed",
        "resume continue restart": "the same command trains what is not finished",
        "force overwrite": "a finished run is never trained again: fit --run.new makes a replicate",
        "limit max_runs n_trials trials": "run_cap: N in the sweep's file limits its points",
        "array": "an array is made by --submit; --throttle N limits the tasks at a time",
        "config c": "a sweep's FILE names its recipe, and follows the verb: resnet-cli sweep FILE",
        "method metric param parameters p grid epochs lr depth count seed seeds n_seeds num_seeds "
        "batch_size devices arch data": (
            "the keys and values of all runs are in the sweep's file: resnet-cli recipes NAME > "
            "my.yaml"
        ),
        "m multirun": "a sweep is a file: resnet-cli recipes digits_degradation > my.yaml",
    },
    "runs": {
        "a all l long n last limit name filter failed state status group where select query": (
            "resnet-cli runs DIR lists all runs of one folder; --json is for programs, which "
            "select and sort"
        ),
        "columns fields cols": "all columns are always told: leave it out",
        "tail head": "--watch lists the runs again and again",
        "reverse desc": "the least comes first: leave it out",
        "format csv": "--json",
        "best": "--sort error",
    },
    "rm": {
        "i interactive": "rm asks before it removes anything: leave it out",
        "failed killed stale": ("each run is named; resnet-cli runs lists them with their state"),
        "all": "name each run, or its folder with rm -r of your shell: resnet-cli runs lists them",
        "older_than keep_last older before": (
            "each run is named; resnet-cli runs lists them with their age"
        ),
        "dry_run n": "rm lists the runs, and asks before it removes them",
    },
    "export": {
        "format onnx": "weights for others are resnet-cli convert RUN --out NET.onnx",
        "zip tar gz": "the archive is a .tar.gz: leave it out",
        "all": "a folder of runs is a word: resnet-cli export runs/NAME",
        "to dest destination": "--out",
        "weights ckpt checkpoint best last include_weights with_weights": (
            "the last and the best weights are packed: leave it out"
        ),
    },
    "compare": {
        "group by groupby group_by sort index": "the rows are settings: --rows depth shortcut",
        "plot figures no_figures no_plots plots fig figure": (
            "figures are always drawn, into --out DIR: leave it out"
        ),
        "last tail head limit top": "--where selects runs, as in --where 'depth == 56'",
        "filter query select only seed depth net": "--where 'depth == 56'",
        "csv html format md markdown latex pdf png svg": (
            "a page, figures and CSV files are always written; --out DIR tells where"
        ),
        "smooth smoothing xlim ylim log log_y logy log_x logx legend figsize": (
            "figures show what was measured; to draw others, take the CSV files of the report, or "
            "load_runs from Python (docs/python.md)"
        ),
        "best": "--metric val/acc1@best",
        "output_dir": "--out",
        "ci interval bootstrap seeds mean std": (
            "mean and spread over seeds are always told: leave it out"
        ),
        "reference ref": "measured runs are words: resnet-cli compare RUNS reference:digits",
    },
    "inspect": {
        "weights activations": "responses",
        "features embeddings representations": (
            "probes measures what can be read from each block, similarity what blocks have in "
            "common"
        ),
        "hessian eigenvalues sharpness": "curvature",
        "cka": "similarity",
        "loss surface contour": "landscape",
        "gradient grads grad": "gradients",
        "lesion ablation": "lesions",
        "linear_probe linear": "probes",
        "summary flops macs params parameters count model": (
            "fit --config digits --run.dry tells parameters, multiply-adds, time and memory"
        ),
        "layers layer": "all layers are measured",
        "run runs": "the run is a word: resnet-cli inspect gradients RUN",
        "gpu cuda": "--device cuda",
        "gradcam cam saliency attention": (
            "blocks are measured; maps of single images are made by other packages, from the net "
            "that lightning_resnet.load(RUN) returns"
        ),
    },
    "convert": {
        "format to onnx type": (
            "the ending of --out tells the format: .ckpt, .pth, .safetensors or .onnx"
        ),
        "ema": "--weights ema",
        "opset opset_version": (
            "ONNX files are of the version that torch writes; leave the flag out"
        ),
        "dynamic dynamic_axes batch_size": "an .onnx takes any number of images: leave it out",
        "arch model net depth width num_classes nc": "the weights tell their net: leave it out",
        "simplify optimize": "torch's exporter simplifies: leave it out",
        "input i source file": "the file is a word: resnet-cli convert FILE --out NEW",
        "half fp16 int8 quantize": "weights are written as float32: leave it out",
    },
    "data get": {
        "mnist": (
            "there is no MNIST: fashion_mnist has clothes in its form; handwritten digits of 8x8 "
            "pixels need no download, fit --config digits"
        ),
        "imagenette": (
            "Imagenette is not fetched here: unpack fast.ai's imagenette2 into data/imagenette, "
            "then fit --config imagenette"
        ),
        "digits": "the digits come with scikit-learn, so fit --config digits needs no download",
        "imagenet_1k ilsvrc ilsvrc2012 imagenet1k": "imagenet",
        "all": "name one of them",
        "tiny_imagenet imagenet100 svhn stl10 coco voc food101 places365 flowers102 cub": (
            "this set is not fetched: unpack it into one folder per class, then fit --config "
            "photos --data FOLDER"
        ),
    },
    "data": {
        "download fetch pull": "get",
        "convert create make prepare": "write",
        "ls list": "resnet-cli doctor --quick tells what data are here",
        "show stat describe": "info",
        "stats statistics count": "check",
        "split": (
            "--data FOLDER validates on val/, else on a fifth; --data.source.holdout N on N of the "
            "training images"
        ),
        "augment transform": "images are changed while they are read: fit --data.policy NAME",
        "fix repair": "nothing is changed: remove or replace the files that are named",
        "force overwrite": (
            "get keeps what is there and right; write replaces no file of another command: remove "
            "that first"
        ),
        "check validate test": "verify",
        "jpeg_quality": "--quality",
        "write_mode compress": "--mode",
    },
    "doctor": {
        "fast q": "--quick",
        "v verbose debug": "doctor prints all that it found; --json is for programs",
        "fix repair": "doctor tells the cure of each problem; nothing is changed by itself",
        "recipe run": "a recipe follows --config, a run is a word: resnet-cli doctor RUN",
    },
    "sync": {
        "project entity p": (
            "W&B's project is the run's own: fit --wandb.project NAME, or WANDB_PROJECT"
        ),
        "clean delete": "nothing is deleted; resnet-cli rm RUN removes a run here",
        "force overwrite": "sent again is only what W&B lacks",
        "dry_run n list": (
            "sync sends what W&B lacks; resnet-cli runs lists the runs, and nothing is removed"
        ),
        "offline online mode": (
            "sync is for machines that reach W&B; a training is offline with --wandb.mode offline"
        ),
        "all": "folders of runs are words: resnet-cli sync runs",
    },
    "completion": {
        "install": ('the script is printed: eval "$(resnet-cli completion bash)" in ~/.bashrc'),
        "shell s": "the shell is a word: resnet-cli completion bash",
        "powershell pwsh tcsh csh ksh": "there is none for it",
    },
    "bench loader": {
        "data root folder images": (
            "it makes its own images; resnet-cli fit --config photos --data FOLDER --run.dry "
            "measures yours"
        ),
    },
    "bench": {
        "config c recipe": (
            "a benchmark has nets and images of its own; resnet-cli fit --config RECIPE --run.dry "
            "measures a recipe"
        ),
        "n iters iterations epochs": "--steps",
        "speed throughput images fps fit training": "train",
        "data dataloader dataset io": "loader",
        "inference predict": "evaluation",
        "all": "name one of them",
    },
    "recipes": {
        "list l all filter grep search": "resnet-cli recipes lists all",
        "show cat print get view dump name n recipe file config c": (
            "a name alone prints the file: resnet-cli recipes NAME"
        ),
        "copy o out output": "resnet-cli recipes NAME > my.yaml copies a file",
    },
}
FLAGS["test"] = FLAGS["validate"]
