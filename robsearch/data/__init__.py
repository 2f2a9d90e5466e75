"""Data: sets that know how to read themselves, the Arrow store that shares them, and augmentation.

``read()`` gives the splits of a set from their source (scikit-learn, torchvision's files in a folder or an object
store, a folder of one's own images); ``load`` gives the same splits as read-only memory maps of one Arrow file per
node, so that all trials of a node share the images. Training uses ``train``, selection ``val``, the final judgement
``test``; the three are disjoint.

``digest`` names what a set is declared to be, without reading it; ``content_digest`` what its images and labels are.
"""

from robsearch.data.augment import CropFlip
from robsearch.data.folder import Folder
from robsearch.data.sets import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST
from robsearch.data.store import arrow_file, commonest_share, content_digest, content_digests, digest, load

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "CropFlip",
    "Digits",
    "FashionMNIST",
    "Folder",
    "arrow_file",
    "commonest_share",
    "content_digest",
    "content_digests",
    "digest",
    "load",
]
