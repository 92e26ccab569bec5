"""Images to train on: sources that are plain values, and the batches read from them."""

from jaxdiff.data.batches import Dataset, batches
from jaxdiff.data.digits import Digits
from jaxdiff.data.folder import Folder
from jaxdiff.data.openmoji import OpenMoji

__all__ = ["Dataset", "Digits", "Folder", "OpenMoji", "batches"]
