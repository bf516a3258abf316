import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from jmamba.recipes import emoji, fashion


@pytest.fixture
def archive(tmp_path):
    """Ten classes of nine plain squares each, opaque in the middle."""
    path, listed = tmp_path / "emoji.zip", []
    with zipfile.ZipFile(path, "w") as out:
        for number, kinds in enumerate(emoji.CLASSES.values()):
            for i in range(9):
                picture = np.zeros((64, 64, 4), np.uint8)
                picture[16:48, 16:48] = (20 * number, 10 * i, 200, 255)
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, "PNG")
                name = f"{number}-{i}.png"
                out.writestr(f"png/{name}", buffer.getvalue())
                listed.append({"image": name, "subcategory": kinds[0]})
        out.writestr("emoji.json", json.dumps(listed))
    return path


def test_emoji_held_out_are_the_others(archive):
    known, new = (emoji.read_emoji(archive, eighths=e) for e in (range(7), (7,)))
    assert known.names == tuple(emoji.CLASSES)
    assert [len(p) for p in known.pictures] == [8] * 10
    assert [len(p) for p in new.pictures] == [1] * 10
    assert {p[0, 30, 30, 1] for p in new.pictures} == {70}


def test_composites_repeat_and_show_the_object_under_the_mask(archive):
    drawn = emoji.read_emoji(archive)
    made = emoji.compose(drawn, 12, side=48, key=(0, 3))
    again = emoji.compose(drawn, 12, side=48, key=(0, 3))
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    assert not np.array_equal(
        made.images, emoji.compose(drawn, 12, side=48, key=(0, 4)).images
    )
    assert made.images.min() >= 0 and made.images.max() <= 1
    for image, label, mask, _ in zip(*made, strict=True):
        inside = image[mask]
        assert len(inside) > 50
        # colours of the emoji, but for what the edge lets through
        np.testing.assert_allclose(np.median(inside[:, 2]), 200 / 255, atol=0.02)
        np.testing.assert_allclose(np.median(inside[:, 0]), label * 20 / 255, atol=0.02)


def test_read_emoji_messages(tmp_path, archive):
    (tmp_path / "not.zip").write_bytes(b"nothing")
    for name in ("not.zip", "absent.zip"):
        with pytest.raises(ValueError, match=f"Cannot read emoji from .*{name}"):
            emoji.read_emoji(tmp_path / name)
    with pytest.raises(ValueError, match="no emoji of"):
        emoji.read_emoji(archive, eighths=())


def write_idx(path, array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
    return path


def test_fashion_is_read(tmp_path):
    grey = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    images = write_idx(tmp_path / "i.gz", grey)
    labels = write_idx(tmp_path / "l.gz", np.array([7, 1]))
    made = fashion.read_fashion(images, labels)
    np.testing.assert_allclose(made.images[..., 2], grey / 255, rtol=1e-6)
    assert made.labels.tolist() == [7, 1]
    assert made.masks.sum() == grey.size - 1


def test_read_fashion_messages(tmp_path):
    images = write_idx(tmp_path / "i.gz", np.zeros((2, 3, 4)))
    labels = write_idx(tmp_path / "l.gz", np.zeros(3))
    with pytest.raises(ValueError, match="has 2 pictures and .* 3 labels"):
        fashion.read_fashion(images, labels)
    with pytest.raises(ValueError, match="no idx file of 3 dimensions"):
        fashion.read_fashion(labels, labels)
    with pytest.raises(ValueError, match="Cannot read .*absent"):
        fashion.read_fashion(tmp_path / "absent", labels)
