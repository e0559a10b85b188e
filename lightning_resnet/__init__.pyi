"""Names of the package, for editors and type checkers; tests/test_python.py compares them."""

from lightning_resnet.analysis.compare.load import load_runs as load_runs
from lightning_resnet.analysis.inspection.gradients import gradients as gradients
from lightning_resnet.api.results import compare as compare
from lightning_resnet.api.results import evaluate as evaluate
from lightning_resnet.api.results import load as load
from lightning_resnet.api.training import fit as fit
from lightning_resnet.data.augment.policies import IncreasingRandAugment as IncreasingRandAugment
from lightning_resnet.data.augment.policies import Lighting as Lighting
from lightning_resnet.data.augment.policies import Policy as Policy
from lightning_resnet.data.augment.policies import RandAugment as RandAugment
from lightning_resnet.data.augment.policies import TrivialAugment as TrivialAugment
from lightning_resnet.data.module import ImageData as ImageData
from lightning_resnet.data.sources.base import Source as Source
from lightning_resnet.data.sources.beton_files import BetonFiles as BetonFiles
from lightning_resnet.data.sources.cifar import CIFAR10 as CIFAR10
from lightning_resnet.data.sources.cifar import CIFAR100 as CIFAR100
from lightning_resnet.data.sources.digits import Digits as Digits
from lightning_resnet.data.sources.fashion_mnist import FashionMNIST as FashionMNIST
from lightning_resnet.data.sources.folder import ImageFolder as ImageFolder
from lightning_resnet.data.sources.imagenet import ImageNet as ImageNet
from lightning_resnet.data.sources.imagenet import ImageNetV2 as ImageNetV2
from lightning_resnet.data.sources.shards import Parquet as Parquet
from lightning_resnet.data.sources.shards import WebDataset as WebDataset
from lightning_resnet.data.sources.subset import Subset as Subset
from lightning_resnet.data.sources.synthetic import Synthetic as Synthetic
from lightning_resnet.errors import UserError as UserError
from lightning_resnet.models import CifarResNet as CifarResNet
from lightning_resnet.models import ImageNetResNet as ImageNetResNet
from lightning_resnet.models import blocks as blocks
from lightning_resnet.training.callbacks import AddedBlocks as AddedBlocks
from lightning_resnet.training.callbacks import Curvature as Curvature
from lightning_resnet.training.callbacks import GradientNorms as GradientNorms
from lightning_resnet.training.callbacks import ResponseStds as ResponseStds
from lightning_resnet.training.ema import Averaging as Averaging
from lightning_resnet.training.hooks import TrainingHooks as TrainingHooks
from lightning_resnet.training.mixup import Mix as Mix
from lightning_resnet.training.optimizer import ConvMuon as ConvMuon
from lightning_resnet.training.schedules import Annealed as Annealed
from lightning_resnet.training.schedules import Cosine as Cosine
from lightning_resnet.training.schedules import ErrorWarmup as ErrorWarmup
from lightning_resnet.training.schedules import Linear as Linear
from lightning_resnet.training.schedules import Plateau as Plateau
from lightning_resnet.training.schedules import Schedule as Schedule
from lightning_resnet.training.schedules import Steps as Steps
from lightning_resnet.training.task import ClassificationTask as ClassificationTask

__version__: str
PUBLIC: dict[str, str]
