"""Image data: every kind of source gives the same images, classes are found by name, and bad sources are refused."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sglp_core import Calibration, Evaluation, Target, compress
from sglp_core.data.images import Images, read_images
from sglp_core.errors import BadCalibration, ModelNotFound, SourceForbidden
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from tests.sglp_core.data.tiny_images import CLASSES, write_images, write_tiny_vit, zipped

ALL = 1000


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = write_tiny_vit(tmp_path_factory.mktemp("vit"))
    return load_model(
        str(directory), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=directory / "cache")
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "all")


def read(loaded: LoadedModel, source: Path, count: int = ALL, roots: Any = None) -> Images:
    return read_images(str(source), loaded, loaded.processor, count, 0, roots)


def write_parquet(folder: Path, file: Path, labels: list[Any], names: tuple[str, ...] = ()) -> Path:
    paths = sorted(folder.rglob("*.png"))
    table = pa.table({"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths], "label": labels})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    return file


def test_folder_zip_and_parquet_give_the_same_images(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    from_folder = read(loaded, folder)
    assert sorted(from_folder.labels.tolist()) == [0] * 8 + [1] * 8 + [2] * 8
    assert read(loaded, zipped(folder, tmp_path / "images.zip")).digest == from_folder.digest
    labels = [CLASSES.index(path.parent.name) for path in sorted(folder.rglob("*.png"))]
    assert read(loaded, write_parquet(folder, tmp_path / "i.parquet", labels)).digest == from_folder.digest


def test_pixels_and_class_are_those_of_the_file(loaded: LoadedModel, tmp_path: Path) -> None:
    for name, colour in (("truck", (255, 0, 51)), ("cat", (0, 0, 0))):
        (tmp_path / "all" / name).mkdir(parents=True)
        Image.new("RGB", (7, 5), colour).save(tmp_path / "all" / name / "one.jpg", quality=100)
    images = read(loaded, tmp_path / "all")
    truck = images.labels.tolist().index(2)
    # The processor of a ViT maps 0–255 to −1–1.
    expected = torch.tensor([1.0, -1.0, -0.6])
    assert torch.allclose(images.pixel_values[truck].mean((1, 2)), expected, atol=0.02)
    assert images.labels[1 - truck] == 0


def test_a_zip_with_a_folder_around_it_has_the_same_classes(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    around = read(loaded, zipped(folder, tmp_path / "images.zip", prefix="train/"))
    assert around.digest == read(loaded, folder).digest


def test_a_draw_is_reproducible_and_mixes_the_classes(loaded: LoadedModel, folder: Path) -> None:
    first, second = read(loaded, folder, 10), read(loaded, folder, 10)
    assert first.digest == second.digest
    assert len(first) == 10
    assert len(set(first.labels.tolist())) > 1


def test_images_without_classes_get_the_predictions_of_the_dense_model(loaded: LoadedModel, tmp_path: Path) -> None:
    images = read(loaded, write_images(tmp_path / "flat", (".",)))
    with torch.no_grad():
        predicted = loaded.model(pixel_values=images.pixel_values).logits.argmax(-1)
    assert torch.equal(images.labels, predicted)
    assert "dense model" in images.noun


def test_unknown_names_are_numbered_in_sorted_order_and_it_is_said(loaded: LoadedModel, tmp_path: Path) -> None:
    images = read(loaded, write_images(tmp_path / "other", ("zebra", "ant", "mule"), each=1))
    by_colour = images.pixel_values.mean((2, 3)).argmax(1).tolist()
    # Zebras are red, ants green and mules blue.
    assert [{0: 2, 1: 0, 2: 1}[colour] for colour in by_colour] == images.labels.tolist()
    assert "sorted order" in images.noun


def test_named_classes_of_a_parquet_file_are_looked_up(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    backwards = tuple(reversed(CLASSES))
    labels = [backwards.index(path.parent.name) for path in sorted(folder.rglob("*.png"))]
    found = read(loaded, write_parquet(folder, tmp_path / "i.parquet", labels, backwards))
    assert found.digest == read(loaded, folder).digest


@pytest.mark.parametrize(
    ("classes", "message"),
    [(("cat", "horse"), "no class named horse"), (("ant", "horse"), "have 2 classes .* and it has 3")],
)
def test_classes_that_do_not_fit_the_model_are_refused(
    loaded: LoadedModel, tmp_path: Path, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadCalibration, match=message):
        read(loaded, write_images(tmp_path / "images", classes, each=1))


def test_labels_beyond_the_models_classes_are_refused(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadCalibration, match=r"has 3 classes, the images have labels \[3\]"):
        read(loaded, write_parquet(folder, tmp_path / "i.parquet", [0] * 23 + [3]))


def test_a_member_that_unpacks_to_too_much_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(64_000_001))
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000
    with pytest.raises(BadCalibration, match="larger than"):
        read(loaded, tmp_path / "bomb.zip")


def test_an_image_of_too_many_pixels_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    Image.new("1", (12_000, 12_000)).save(tmp_path / "all" / "wide.png")
    with pytest.raises(BadCalibration, match="pixels"):
        read(loaded, tmp_path / "all")


def test_a_zip_that_names_places_outside_is_refused_and_nothing_written(
    loaded: LoadedModel, folder: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = zipped(folder, inside / "slip.zip", prefix="../../../")
    with pytest.raises(BadCalibration, match="holds no images"):
        read(loaded, archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "slip.zip"]


@pytest.mark.parametrize("name", ["broken.zip", "broken.parquet", "words.txt"])
def test_a_source_that_holds_no_images_is_refused(loaded: LoadedModel, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is neither")
    with pytest.raises(BadCalibration):
        read(loaded, tmp_path / name)


def test_a_file_that_only_claims_to_be_an_image_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "1.png").write_bytes(b"not a PNG")
    with pytest.raises(BadCalibration, match=r"1\.png cannot be read"):
        read(loaded, tmp_path / "all")


def test_a_link_out_of_the_roots_is_refused(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "1.png").symlink_to(folder / "cat" / "0.png")
    assert len(read(loaded, tmp_path / "all")) == 1
    with pytest.raises(SourceForbidden):
        read(loaded, tmp_path / "all", roots=[tmp_path])


def test_a_vit_is_compressed_with_images(folder: Path, tmp_path: Path) -> None:
    report = compress(
        str(write_tiny_vit(tmp_path / "model")),
        Target("layers", 0.34),
        tmp_path / "out",
        options=Options(
            calibration=Calibration(str(folder), samples=12, batch_size=6), evaluation=Evaluation(samples=8)
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert report.verification.passed
    assert report.analysis.sample_unit == "image"
    assert report.evaluation.description == (
        "8 images with their classes by name of the calibration source that were not measured"
    )
    rows = {row.metric: row for row in report.table}
    assert (rows["layers"].before, rows["layers"].after) == (6, 3)
    # Eight images: every share is a number of eighths.
    assert rows["accuracy"].after * 8 == round(rows["accuracy"].after * 8)
    assert (tmp_path / "out/model/preprocessor_config.json").is_file()


def test_the_error_of_an_image_model_without_data_asks_for_images(tmp_path: Path) -> None:
    with pytest.raises(BadCalibration, match=r"folder of class folders, a \.zip of one, or a \.parquet file"):
        compress(
            str(write_tiny_vit(tmp_path / "model")),
            Target("layers", 0.34),
            tmp_path / "out",
            context=RunContext(cache=tmp_path / "cache"),
        )


def test_a_model_without_an_image_processor_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_vit(tmp_path / "model")
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"preprocessor_config\.json"):
        load_model(str(directory), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=tmp_path))


def test_images_in_half_precision_have_digests_of_their_content() -> None:
    labels = torch.zeros(1, dtype=torch.long)
    black, white = (
        Images(torch.full((1, 3, 2, 2), value, dtype=torch.bfloat16), labels, "images").digest for value in (0.0, 1.0)
    )
    assert black != white
