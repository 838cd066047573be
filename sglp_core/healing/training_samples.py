"""Which samples each step of a healing trains on, and how images are changed first."""

import itertools
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sglp_core.options import Augmentation
from sglp_core.tasks import Batch, rebatch, sample_count

# The part of an image's size by which its crop moves at most: 4 of 32 pixels, as He et al. (arXiv 1512.03385) do.
MOVED_SHARE = 8


def training_samples(
    batches: Sequence[Batch], samples: int, seed: int, done: int, augmentation: Augmentation = "none"
) -> Iterator[Batch]:
    """So many samples for each step after those that are done: all of them in a random order, and again in another.

    What is drawn follows from the seed and the number of the step alone.
    """
    count = sample_count(batches)
    whole = next(rebatch(batches, count))
    generator = random.Random(seed)
    numbers = itertools.chain.from_iterable(generator.sample(range(count), count) for _ in itertools.count())
    steps = enumerate(zip(*[numbers] * samples, strict=False))
    for step, chosen in itertools.islice(steps, done, None):
        batch = whole.chosen(chosen)
        yield batch if augmentation == "none" else _cropped_and_flipped(batch, random.Random(f"{seed} {step}"))


def _cropped_and_flipped(batch: Batch, drawn: random.Random) -> Batch:
    """Each image moved by up to an eighth of its size, with zeros where nothing was, and half of them mirrored."""
    generator = torch.Generator().manual_seed(drawn.getrandbits(63))
    images = batch.inputs["pixel_values"]
    count, _, height, width = images.shape
    down, across = height // MOVED_SHARE, width // MOVED_SHARE
    padded = nn.functional.pad(images, (across, across, down, down))
    rows = _offsets(count, down, generator) + torch.arange(height)
    columns = _offsets(count, across, generator) + torch.arange(width)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    # Indexed so, the channels come last.
    cropped = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return Batch({**batch.inputs, "pixel_values": cropped.permute(0, 3, 1, 2).contiguous()}, batch.labels)


def _offsets(count: int, most: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2 * most + 1, (count, 1), generator=generator)
