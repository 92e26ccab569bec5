"""Images to train on: sources that are plain values, and the batches read from them."""

from jaxdiff.data.batches import Dataset, LeftOut, batches, split_of
from jaxdiff.data.cifar10 import CIFAR10
from jaxdiff.data.digits import Digits
from jaxdiff.data.encoders import Encoder, Pixels, VAELatents, encoder_of
from jaxdiff.data.folder import Folder
from jaxdiff.data.latents import Latents, write_latents
from jaxdiff.data.openmoji import OpenMoji
from jaxdiff.data.records import LatentRecords, Records
from jaxdiff.data.skipping import skipped
from jaxdiff.data.statistics import Statistics
from jaxdiff.data.summary import describe, differences, identity
from jaxdiff.data.synthetic import Synthetic
from jaxdiff.data.tfds import TFDS

__all__ = [
    "CIFAR10",
    "TFDS",
    "Dataset",
    "Digits",
    "Encoder",
    "Folder",
    "LatentRecords",
    "Latents",
    "LeftOut",
    "OpenMoji",
    "Pixels",
    "Records",
    "Statistics",
    "Synthetic",
    "VAELatents",
    "batches",
    "describe",
    "differences",
    "encoder_of",
    "identity",
    "skipped",
    "split_of",
    "write_latents",
]
