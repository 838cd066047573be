"""What healing trains on follows from the seed and the step, and augmented images are crops of the padded ones."""

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from sglp_core.healing.training_samples import training_samples
from sglp_core.tasks import Batch

HEIGHT, WIDTH = 16, 24


def images(count: int) -> list[Batch]:
    pixels = torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) + 1
    return [Batch({"pixel_values": pixels}, torch.arange(count))]


def every_crop(image: Tensor) -> dict[tuple[int, int, bool], Tensor]:
    padded = nn.functional.pad(image, (3, 3, 2, 2))
    crops = {(y, x): padded[:, y : y + HEIGHT, x : x + WIDTH] for y in range(5) for x in range(7)}
    return {(y, x, flip): crop.flip(-1) if flip else crop for (y, x), crop in crops.items() for flip in (False, True)}


def test_augmented_images_are_all_crops_of_the_padded_image_and_their_mirror_images() -> None:
    data = images(1)
    crops = every_crop(data[0].inputs["pixel_values"][0])
    found = []
    for batch in islice(training_samples(data, 1, 0, 0, "crop_and_flip"), 700):
        crop = batch.inputs["pixel_values"][0]
        found += [place for place, expected in crops.items() if torch.equal(crop, expected)]
    assert len(found) == 700
    assert set(found) == set(crops)
    # Four standard deviations of a fair coin.
    assert abs(sum(flip for *_, flip in found) - 350) < 53


def test_images_of_a_step_move_each_by_itself_and_keep_their_labels() -> None:
    data = images(40)
    batch = next(training_samples(data, 40, 0, 0, "crop_and_flip"))
    assert sorted(batch.labels.tolist()) == list(range(40))
    places = set()
    for label, crop in zip(batch.labels.tolist(), batch.inputs["pixel_values"], strict=True):
        crops = every_crop(data[0].inputs["pixel_values"][label])
        places.add(next(place for place, expected in crops.items() if torch.equal(crop, expected)))
    assert len(places) > 10


@pytest.mark.parametrize("augmentation", ["none", "crop_and_flip"])
def test_steps_after_a_stop_have_the_samples_that_they_would_have_had(augmentation: str) -> None:
    def steps(seed: int, done: int, count: int) -> list[Tensor]:
        samples = training_samples(images(10), 4, seed, done, augmentation)  # type: ignore[arg-type]
        return [batch.inputs["pixel_values"] for batch in islice(samples, count)]

    whole = steps(3, 0, 8)
    assert all(torch.equal(found, expected) for found, expected in zip(steps(3, 5, 3), whole[5:], strict=True))
    assert not any(torch.equal(found, other) for found, other in zip(steps(4, 0, 8), whole, strict=True))
