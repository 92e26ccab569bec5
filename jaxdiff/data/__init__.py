"""Images to train on: sources that are plain values, and the batches read from them."""

from jaxdiff.data.batches import Dataset, LeftOut, Memory, batches, split_of
from jaxdiff.data.decoded import pictures
from jaxdiff.data.encoders import Encoder, Pixels, VAELatents, encoder_of
from jaxdiff.data.skipping import skipped
from jaxdiff.data.sources.cifar10 import CIFAR10
from jaxdiff.data.sources.digits import Digits
from jaxdiff.data.sources.folder import Folder
from jaxdiff.data.sources.latents import Latents, write_latents
from jaxdiff.data.sources.openmoji import OpenMoji
from jaxdiff.data.sources.records import LatentRecords, Records
from jaxdiff.data.sources.synthetic import Synthetic
from jaxdiff.data.sources.tfds import TFDS
from jaxdiff.data.statistics import Statistics
from jaxdiff.data.summary import describe, differences, identity

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
    "Memory",
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
    "pictures",
    "skipped",
    "split_of",
    "write_latents",
]
