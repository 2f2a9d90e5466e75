"""Data: sets that know how to read themselves, the Arrow store that shares them, and augmentation.

``read()`` gives the splits of a set from their source; ``load`` gives the same splits as read-only memory
maps of one Arrow file per node, so that all trials of a node share the images. Training uses ``train``,
selection ``val``, the final judgement ``test``; the three are disjoint.
"""

from robsearch.data.augment import CropFlip
from robsearch.data.sets import CIFAR10, MNIST, Digits, FashionMNIST
from robsearch.data.store import digest, load

__all__ = ["CIFAR10", "MNIST", "CropFlip", "Digits", "FashionMNIST", "digest", "load"]
