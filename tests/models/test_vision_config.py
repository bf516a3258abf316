import jax.numpy as jnp
import numpy as np
import pytest
import vision_definition as definition

from jmamba import Vim, VimConfig


@pytest.mark.parametrize("name", ["divide_out", "if_divide_out", "if_devide_out"])
@pytest.mark.parametrize("value", [True, False])
def test_every_spelling_of_the_divide_flag(name, value):
    assert VimConfig.named("vim-tiny", **{name: value}).divide_out is value


def test_config_messages():
    with pytest.raises(
        ValueError, match="Unknown configuration 'vim'; known are vim-t"
    ):
        VimConfig.named("vim")
    with pytest.raises(ValueError, match="num_layers must be .*16,384, but is 0"):
        VimConfig(d_model=8, num_layers=0)
    with pytest.raises(ValueError, match="class_token='center' is no place among 196"):
        VimConfig(d_model=8, class_token="center")
    with pytest.raises(ValueError, match="class_token=197 is no place among 196"):
        VimConfig(d_model=8, class_token=197)
    with pytest.raises(ValueError, match="side 8 holds no patch of side 16"):
        VimConfig(d_model=8, image_size=8)
    with pytest.raises(ValueError, match="Spellings of one flag disagree"):
        fields = {"d_model": 8, "if_divide_out": True, "if_devide_out": False}
        VimConfig.from_dict(fields)
    with pytest.raises(ValueError, match="no fields depth; it has .*num_layers"):
        VimConfig.from_dict({"d_model": 8, "depth": 24})


def test_image_messages():
    model = definition.tiny_vim()
    for shape in [(12, 12, 3), (1, 3, 12, 12), (0, 12, 12, 3)]:
        with pytest.raises(ValueError, match=r"must have the shape \(batch, height"):
            model(jnp.zeros(shape))
    with pytest.raises(ValueError, match="are uint8; preprocess"):
        model(jnp.zeros((1, 12, 12, 3), jnp.uint8))
    with pytest.raises(ValueError, match="3 x 12 pixels hold no patch of side 4"):
        model(jnp.zeros((1, 3, 12, 3)))
    late = definition.tiny_vim(class_token=8)
    with pytest.raises(ValueError, match="class_token=8 is no place among 4 patches"):
        late(jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(IndexError, match="layer 2 of a model with 2 layers"):
        model.layer(2)


def test_vim_in_bfloat16_is_near_float32():
    images = jnp.asarray(definition.draw_images())
    exact = definition.tiny_vim()(images)
    half = definition.tiny_vim(dtype=jnp.bfloat16)(images)
    assert half.dtype == jnp.float32
    error = np.abs(half - exact).max() / np.abs(exact).max()
    assert error < 3e-2  # a handful of roundings to 8 bits, as for language models


def test_remat_changes_no_value():
    images = jnp.asarray(definition.draw_images())
    model = definition.tiny_vim()
    again: Vim = definition.tiny_vim(remat=True)
    np.testing.assert_allclose(again(images), model(images), rtol=1e-6)
