import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers import assert_close
from PIL import Image

from jmamba.files.errors import FileError
from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.images import (
    normalise,
    open_image,
    preprocess,
    preprocessing_of,
    resize_and_crop,
)


def draw_picture(height, width, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 11), (13, 8)])
def test_preprocess_without_resizing_keeps_the_middle(height, width):
    picture = draw_picture(height, width)
    found = preprocess(picture, crop=6, resize=8)
    top, left = round((height - 6) / 2), round((width - 6) / 2)
    middle = picture[top : top + 6, left : left + 6] / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert found.shape == (1, 6, 6, 3) and found.dtype == np.float32
    assert_close(found[0], (middle - mean) / deviation, 1e-6)


def test_preprocess_halves_by_averaging():
    picture = np.repeat(np.repeat(draw_picture(4, 5), 2, axis=0), 2, axis=1)
    found = resize_and_crop(picture, crop=4, resize=4, resample="nearest")
    np.testing.assert_array_equal(np.asarray(found), picture[::2, ::2][:, :4])


def test_preprocess_reads_files_and_any_mode(tmp_path):
    picture = Image.fromarray(draw_picture(9, 9))
    expected = preprocess(picture, crop=8)
    picture.save(tmp_path / "picture.png")
    np.testing.assert_array_equal(
        preprocess(tmp_path / "picture.png", crop=8), expected
    )
    grey = picture.convert("L")
    assert np.ptp(np.asarray(resize_and_crop(grey, crop=8)), axis=-1).max() == 0
    np.testing.assert_array_equal(
        preprocess(np.asarray(grey), crop=8), preprocess(grey, crop=8)
    )


def test_normalise_keeps_leading_axes():
    assert normalise(np.zeros((2, 3, 4, 3), np.float32)).shape == (2, 3, 4, 3)


def test_bad_pictures_are_said(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png cannot be read as a picture"):
        preprocess(tmp_path / "text.png")
    Image.fromarray(draw_picture(64, 64)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.jpg cannot be read as a picture"):
        preprocess(tmp_path / "cut.jpg")
    with pytest.raises(ValueError, match="There is no picture .*missing.png"):
        preprocess(tmp_path / "missing.png")
    with pytest.raises(ValueError, match=r"\(255 \* x\).astype"):
        preprocess(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"uint8 of shape \(3, 8, 8\)"):
        preprocess(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="range from -1 to 300"):
        preprocess(np.array([[-1, 300]]))
    with pytest.raises(ValueError, match="give 1 <= crop <= resize"):
        preprocess(draw_picture(8, 8), crop=8, resize=4)
    with pytest.raises(ValueError, match="resample='cubic': give one of bicubic"):
        preprocess(draw_picture(8, 8), resample="cubic")


def sixteen_bits():
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    return Image.fromarray(ramp), np.stack([ramp // 257] * 3, axis=-1)


def half_transparent():
    levels = np.full((8, 8, 4), 100, np.uint8)
    levels[:4, :, 3], levels[4:, :, 3] = 0, 255
    expected = np.full((8, 8, 3), 100)
    expected[:4] = 255  # white, whatever colour hides there
    return Image.fromarray(levels), expected


def palette():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    return picture, np.broadcast_to([10, 200, 30], (8, 8, 3))


def transparent_palette():
    picture, _ = palette()
    picture.info["transparency"] = 1
    return picture, np.full((8, 8, 3), 255)


def cmyk():
    return Image.new("CMYK", (8, 8), (255, 0, 0, 0)), np.full((8, 8, 3), (0, 255, 255))


def turned():
    levels = np.zeros((8, 8, 3), np.uint8)
    levels[:, :4] = 255  # white on the left, which belongs on top
    picture = Image.fromarray(levels)
    picture.getexif()[0x0112] = 6
    return picture, np.rot90(levels, -1)


@pytest.mark.parametrize(
    "make", [sixteen_bits, half_transparent, palette, transparent_palette, cmyk, turned]
)
def test_modes_are_seen_as_they_look(make, tmp_path):
    picture, expected = make()
    np.testing.assert_array_equal(np.asarray(open_image(picture)), expected)
    kind = "tiff" if make is cmyk else "png"
    options = {"exif": picture.getexif()} if make is turned else {}
    picture.save(tmp_path / f"file.{kind}", **options)
    found = np.asarray(open_image(tmp_path / f"file.{kind}"))
    np.testing.assert_array_equal(found, expected)


def ramp_to(most, dtype):
    """Return levels from 0 to the largest, row by row."""
    return np.linspace(0, most, 64).reshape(8, 8).astype(dtype)


def sixteen_bit_png(levels) -> bytes:
    """Return a PNG of 16 bits, which Pillow writes of grey pictures only."""
    height, width, colours = levels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[colours]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )  # fmt: skip


DEEP = [
    # values, what is black and what white
    (ramp_to(4095, np.uint16), 0, 4095),  # 12 bits of a camera, in 16
    (ramp_to(1000, np.uint16), 0, 1023),
    (ramp_to(255, np.uint16), 0, 255),
    (ramp_to(1, np.int32), 0, 1),
    (ramp_to(70_000, np.int32), 0, 70_000),
    (ramp_to(4095, np.int32) - 100, -100, 3995),
    (ramp_to(1, np.float32), 0, 1),
    (ramp_to(0.25, np.float32), 0, 1),
    (ramp_to(3.5, np.float32), 0, 3.5),
    (ramp_to(2, np.float32) - 1, -1, 1),
]


@pytest.mark.parametrize(("values", "black", "white"), DEEP)
def test_deep_pictures_are_scaled_by_their_range(values, black, white, tmp_path):
    shares = (values.astype(np.float64) - black) / (white - black)
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    said = f"{black:g} is taken for black and {white:g} for white"
    with pytest.warns(UserWarning, match=f"deep.tiff holds numbers .*{said}"):
        found = np.asarray(open_image(tmp_path / "deep.tiff"))
    assert np.abs(found[..., 0] - 255 * shares).max() <= 1
    with pytest.warns(UserWarning, match="^The picture holds"):
        np.testing.assert_array_equal(open_image(Image.fromarray(values)), found)


def test_ranges_are_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            open_image(Image.fromarray(ramp_to(4095, np.uint16)))
    assert len(said) == 1


def test_unsigned_files_of_32_bits_are_not_negative(tmp_path):
    values = ramp_to(4_000_000_000, np.uint32)
    tags = {256: 8, 257: 8, 258: 32, 259: 1, 262: 1, 273: 200, 277: 1, 279: 256}
    entries = b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    (tmp_path / "a.tiff").write_bytes(head.ljust(200, b"\0") + values.tobytes())
    with pytest.warns(UserWarning, match="numbers from 0 to 4e\\+09"):
        found = np.asarray(open_image(tmp_path / "a.tiff"))[..., 0]
    assert found[0, 0] == 0 and found[-1, -1] == 255


@pytest.mark.parametrize("colours", [2, 3, 4])
def test_few_bits_of_16_per_colour_are_refused(colours, tmp_path):
    whole = np.repeat(ramp_to(65535, int)[..., None], colours, axis=-1)
    whole[..., 3 if colours == 4 else -1 if colours == 2 else 0] = 65535
    (tmp_path / "whole.png").write_bytes(sixteen_bit_png(whole))
    found = np.asarray(open_image(tmp_path / "whole.png"))
    assert (
        np.abs(
            found[..., 1].astype(int) - whole[..., 0 if colours == 2 else 1] / 257
        ).max()
        <= 1
    )
    (tmp_path / "few.png").write_bytes(sixteen_bit_png(whole // 16))
    with pytest.raises(ValueError, match="colours of at most 4095 of 65535, .* black"):
        open_image(tmp_path / "few.png")


def test_numbers_that_are_not_finite_are_refused():
    values = ramp_to(1, np.float32)
    values[2, 3] = np.nan
    with pytest.raises(ValueError, match="numbers that are not finite"):
        open_image(Image.fromarray(values))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LAB", "HSV", "YCbCr", "LA", "La", "PA", "RGBX", "RGBa"]
)
def test_every_mode_of_pillow_is_read(mode):
    assert open_image(Image.new(mode, (4, 3))).mode == "RGB"


@pytest.mark.parametrize("limit", [30, 60])  # Pillow stops, or only warns
def test_huge_pictures_are_not_opened(limit, tmp_path, monkeypatch):
    Image.fromarray(draw_picture(8, 8)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"huge.png has more than {limit} pixels"):
        preprocess(tmp_path / "huge.png")


def test_long_pictures_are_refused_before_they_are_resized():
    with pytest.raises(ValueError, match="would be resized to 25600000 x 256 before"):
        preprocess(draw_picture(1, 100_000))


def test_preprocessing_keeps_the_shorter_side():
    options = preprocessing_of(VimConfig(d_model=8, image_size=6, patch_size=2))
    picture = draw_picture(6, 10)
    found = preprocess(picture, **options)
    expected = normalise(picture[None, :, 2:8].astype(np.float32) / 255)
    assert_close(found, expected, 1e-6)


def test_only_formats_of_pillow_itself_are_read(tmp_path):
    Image.fromarray(draw_picture(8, 8)).save(tmp_path / "vector.eps")
    with pytest.raises(FileError, match="vector.eps cannot be read as a picture"):
        open_image(tmp_path / "vector.eps")


@pytest.mark.parametrize("given", ["~nobody-here/a.png", "x" * 5000, "a\0b.png"])
def test_pictures_whose_path_cannot_be_are_said(given):
    with pytest.raises(FileError, match="give the whole path|cannot be opened"):
        open_image(given)


def test_pipes_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="is a named pipe, not a file"):
        open_image(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="is a device, not a file"):
        open_image("/dev/zero")
