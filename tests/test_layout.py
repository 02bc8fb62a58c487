import pytest

from mmdit_probe import Region, TokenLayout


@pytest.mark.parametrize("order", ["image-text", "text-image"])
@pytest.mark.parametrize("grid", [(4, 6), (2, 3, 4)])
def test_slices_cover_all_tokens_once(grid, order):
    layout = TokenLayout(grid, 5, order)
    positions = list(range(layout.tokens))
    image, text = positions[layout.image_slice], positions[layout.text_slice]
    assert sorted(image + text) == positions
    assert len(image) == layout.image == 24
    assert (image < text) == (order == "image-text")


def test_uniform_mass_of_a_query_sums_to_one():
    layout = TokenLayout((4, 4), 4)
    assert layout.uniform(Region.I2T) == 0.2
    assert layout.uniform(Region.I2I) + layout.uniform(Region.I2T) == 1
    assert layout.uniform(Region.T2I) + layout.uniform(Region.T2T) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4,), 5), "grid must be"),
        (((4, 0), 5), "grid must be"),
        (((4, 4), -1), "0 or more"),
        (((4, 4), 1, "text"), "order must be"),
    ],
)
def test_bad_layouts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenLayout(*arguments)
