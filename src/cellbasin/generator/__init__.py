"""A procedural generator of annotated microscope images, for examples, tests, benchmarks and training.

Everything is drawn by rule from a seed; nothing is copied from a real image, so no licence hangs on it.

>>> from cellbasin.generator import generate
>>> sample = generate("phase", (96, 96), diameter=24, seed=1)
>>> sample.image.shape, sample.labels.shape
((1, 96, 96), (96, 96))
"""

from cellbasin.generator.sample import KINDS, LAYOUTS, Sample, generate, labels_only
from cellbasin.generator.volume import generate_volume

__all__ = ["KINDS", "LAYOUTS", "Sample", "generate", "generate_volume", "labels_only"]
