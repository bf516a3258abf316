import builtins
import itertools

import h5py
import numpy as np
import pytest
from PIL import Image

from jmamba.evaluation import (
    MaskedImage,
    open_imagenet_segmentation,
    open_mask_folder,
    resize_masked_image,
)

DRAW = np.random.default_rng(0)
SIZES = ((4, 6), (5, 3), (2, 2))
IMAGES = [DRAW.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
MASKS = [DRAW.integers(0, 2, size, dtype=np.uint8) for size in SIZES]


def write_matlab(path, images=IMAGES, masks=MASKS):
    """Write what MATLAB 7.3 makes of a struct array: references, and axes reversed."""
    with h5py.File(path, "w") as file:
        reference = h5py.ref_dtype
        counter = itertools.count()

        def put(array):
            return file.create_dataset(f"#refs#/{next(counter)}", data=array).ref

        img = file.create_dataset("value/img", (len(images), 1), reference)
        gt = file.create_dataset("value/gt", (len(masks), 1), reference)
        for i, image in enumerate(images):
            img[i, 0] = put(image.transpose())
        for i, mask in enumerate(masks):
            cell = file.create_dataset(f"#refs#/{next(counter)}", (1, 1), reference)
            cell[0, 0] = put(mask.transpose())
            gt[i, 0] = cell.ref
    return path


def write_folder(path, masks=MASKS, image_suffix=".png"):
    for part in ("images", "masks"):
        (path / part).mkdir()
    for i, (image, mask) in enumerate(zip(IMAGES, masks, strict=True)):
        Image.fromarray(image).save(path / "images" / f"{i}{image_suffix}")
        Image.fromarray(mask).save(path / "masks" / f"{i}.png")
    return path


def assert_is_data(found, names):
    assert len(found) == 3 and [item.name for item in found] == names
    for item, image, mask in zip(found, IMAGES, MASKS, strict=True):
        np.testing.assert_array_equal(item.image, image)
        np.testing.assert_array_equal(item.mask, mask)
        assert item.image.dtype == np.uint8 and item.mask.dtype == np.int8


def test_imagenet_segmentation_is_read_through_its_references(tmp_path):
    found = open_imagenet_segmentation(write_matlab(tmp_path / "gtsegs_ijcv.mat"))
    assert_is_data(found, ["00000", "00001", "00002"])
    assert found[-1].name == "00002" and found[1:].names == ("00001", "00002")


def test_grey_images_become_colours(tmp_path):
    grey = [image[:, :, 0] for image in IMAGES]
    found = open_imagenet_segmentation(write_matlab(tmp_path / "a.mat", images=grey))
    assert (found[0].image == grey[0][:, :, None]).all()


def test_folders_of_pictures(tmp_path):
    found = open_mask_folder(write_folder(tmp_path))
    (tmp_path / "masks" / "alone.png").write_bytes(b"")  # of no picture: ignored
    assert_is_data(found, ["0", "1", "2"])


def test_mask_values_are_object_unless_said_otherwise(tmp_path):
    masks = [np.where(mask, 255, 0).astype(np.uint8) for mask in MASKS]
    masks[0][:2] = 7
    folder = write_folder(tmp_path, masks)
    assert (open_mask_folder(folder)[0].mask == (masks[0] > 0)).all()
    counted = open_mask_folder(folder, unlabelled=255)[0].mask
    expected = np.select([masks[0] == 255, masks[0] == 7], [-1, 1], 0)
    np.testing.assert_array_equal(counted, expected)


def test_palettes_are_read_as_numbers(tmp_path):
    folder = write_folder(tmp_path)
    colours = Image.new("P", (6, 4))
    colours.putpalette([200, 0, 0, 0, 0, 90] + [0] * 762)  # 0 is red and not black
    colours.putdata(MASKS[0].ravel().tolist())
    colours.save(folder / "masks" / "0.png")
    np.testing.assert_array_equal(open_mask_folder(folder)[0].mask, MASKS[0])


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "images" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    found = open_mask_folder(folder)
    assert found[0].name == "0" and found[2].name == "2"
    with pytest.raises(ValueError, match=r"1\.png cannot be read as a picture"):
        found[1]


def test_masks_keep_their_values_when_resized():
    mask = np.repeat(np.array([[-1, 0, 1]], np.int8), 5, axis=0)
    item = MaskedImage("a", np.full((5, 3, 3), 9, np.uint8), mask)
    large = resize_masked_image(item, 6)
    assert large.image.shape == (6, 6, 3) and (large.image == 9).all()
    expected = np.repeat([[-1, -1, 0, 0, 1, 1]], 6, axis=0)
    np.testing.assert_array_equal(large.mask, expected)
    assert large.mask.dtype == np.int8
    assert set(resize_masked_image(item, 7).mask.ravel().tolist()) == {-1, 0, 1}


def test_matlab_messages(tmp_path, monkeypatch):
    broken = tmp_path / "broken.mat"
    broken.write_bytes(write_matlab(tmp_path / "whole.mat").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"broken.mat cannot be read as a MATLAB 7.3"):
        open_imagenet_segmentation(broken)
    with pytest.raises(ValueError, match="No such file"):
        open_imagenet_segmentation(tmp_path / "none.mat")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["value"] = np.ones(3)
    with pytest.raises(ValueError, match="does not hold value/img and value/gt"):
        open_imagenet_segmentation(tmp_path / "other.mat")
    fewer = write_matlab(tmp_path / "fewer.mat", masks=MASKS[:2])
    with pytest.raises(ValueError, match="holds 3 images but 2 masks"):
        open_imagenet_segmentation(fewer)
    nowhere = write_matlab(tmp_path / "nowhere.mat")
    with h5py.File(nowhere, "a") as file:
        file["value/gt"][1, 0] = h5py.Reference()  # pyright: ignore
    with pytest.raises(ValueError, match="Image 00001 of .* cannot be read .* anew"):
        open_imagenet_segmentation(nowhere)[1]
    mixed = write_matlab(tmp_path / "mixed.mat", masks=[*MASKS[1:], MASKS[0]])
    with pytest.raises(ValueError, match="00000 has 4 x 6 pixels and its mask 5 x 3"):
        open_imagenet_segmentation(mixed)[0]
    floats = write_matlab(tmp_path / "floats.mat", images=[x / 2 for x in IMAGES])
    with pytest.raises(ValueError, match="Image 00000 is float64 .* not 8-bit grey or"):
        open_imagenet_segmentation(floats)[0]
    with monkeypatch.context() as patch:
        real = builtins.__import__

        def without_h5py(name, *rest, **more):
            if name == "h5py":
                raise ImportError(name)
            return real(name, *rest, **more)

        patch.setattr(builtins, "__import__", without_h5py)
        with pytest.raises(ImportError, match=r'pip install "jmamba\[segmentation\]"'):
            open_imagenet_segmentation(nowhere)


def test_folder_messages(tmp_path):
    with pytest.raises(ValueError, match="There is no folder .*images; give one that"):
        open_mask_folder(tmp_path)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match="0 of 0 pictures .*there is no picture"):
        open_mask_folder(tmp_path)
    Image.fromarray(IMAGES[0]).save(tmp_path / "images" / "cat.png")
    with pytest.raises(ValueError, match=r"1 of 1 pictures .* no mask .* \(cat\)"):
        open_mask_folder(tmp_path)
    Image.fromarray(MASKS[0]).save(tmp_path / "images" / "cat.bmp")
    with pytest.raises(ValueError, match=r"cat.bmp and cat.png have one stem"):
        open_mask_folder(tmp_path)
    (tmp_path / "images" / "cat.bmp").unlink()
    path = tmp_path / "masks" / "cat.png"
    for array, message in (
        (MASKS[1], "cat has 4 x 6 pixels and its mask 5 x 3; they must be of one size"),
        (IMAGES[0], r"holds uint8 of shape \(4, 6, 3\), but a mask has one integer"),
    ):
        Image.fromarray(array).save(path)
        with pytest.raises(ValueError, match=message):
            open_mask_folder(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cat.png cannot be read as a mask"):
        open_mask_folder(tmp_path)[0]
    path.unlink()
    Image.fromarray(MASKS[0]).save(path.with_suffix(".jpg"))
    with pytest.raises(ValueError, match=r"cat.jpg is no lossless file"):
        open_mask_folder(tmp_path)[0]
    item = MaskedImage("a", IMAGES[0], MASKS[0].astype(np.int8))
    with pytest.raises(
        ValueError, match="side=0, resample='bilinear': give a positive"
    ):
        resize_masked_image(item, 0)
    with pytest.raises(ValueError, match="resample='cubic'.* one of bicubic, bilinear"):
        resize_masked_image(item, 8, resample="cubic")
