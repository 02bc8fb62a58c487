"""Layouts of unknown transformers, and given ones on request, are checked by what the model does."""

from copy import deepcopy

import models_flux
import models_image
import numpy as np
import pytest
import torch
from models_cross import CASES as CROSS
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as attend

from mmdit_probe import I2TMaps, Probe, RegionMass, TokenLayout

WIDTH, ROWS, COLS, TEXT = 8, 3, 4, 5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.runs = 0

    def forward(self, x, y):
        self.runs += 1
        return attend(self.query(x)[:, None], self.key(y)[:, None], self.key(y)[:, None])[:, 0]


class Block(nn.Module):
    """Self-attention of the image, or joint attention; then cross-attention on the text."""

    def __init__(self, joint):
        super().__init__()
        self.attn1, self.attn2, self.joint = Attention(), Attention(), joint

    def forward(self, x, text):
        tokens = torch.cat([x, text], 1) if self.joint else x
        x = x + self.attn1(tokens, tokens)[:, : x.shape[1]]
        return x + self.attn2(x, text)


class Unknown(nn.Module):
    """A transformer that no family knows; its options are ways to be something else than it seems."""

    def __init__(self, joint=False, last=False, turned=False, control=False, smeared=False, refined=False):
        super().__init__()
        torch.manual_seed(0)
        self.config = {"patch_size": 1}
        self.embed, self.words = nn.Linear(4, WIDTH), nn.Linear(6, WIDTH)
        self.blocks = nn.ModuleList(Block(joint) for _ in range(4))
        if control:
            self.control_blocks = nn.ModuleList([Block(False)])
        self.control, self.last, self.turned, self.smeared = control, last, turned, smeared
        self.refiner = Attention() if refined else None
        self.drop = nn.Dropout(0.5)

    def forward(self, hidden_states, encoder_hidden_states, timestep=None, cache=None, options=None):
        x = hidden_states if self.last else hidden_states.permute(0, 2, 3, 1)
        x = self.embed((x.transpose(1, 2) if self.turned else x).flatten(1, 2))
        text = self.words(encoder_hidden_states)
        if self.refiner is not None:
            text = text + self.refiner(text, text)
        if self.smeared:
            x = x + x.mean(1, keepdim=True)
        x = self.drop(x)
        for block in self.control_blocks if self.control else ():
            x = block(x, text)
        for block in self.blocks:
            x = block(x, text)
        if cache is not None:
            cache.append(x)
        return x


def inputs(shape=(2, 4, ROWS, COLS), **more):
    return {"hidden_states": torch.randn(shape), "encoder_hidden_states": torch.randn(2, TEXT, 6), **more}


@pytest.mark.parametrize("refined", [False, True])
def test_an_unknown_cross_attention_model_is_believed_after_it_was_seen(refined):
    model = Unknown(refined=refined).eval()
    given = inputs(timestep=torch.tensor([0.75, 0.75]))
    plain = model(**given)
    with Probe(model, [I2TMaps(), RegionMass()]) as probe:
        assert torch.equal(model(**given), plain)
        model(**given)
    record = probe.dataset()
    assert record.attrs["family"] == "generic"
    assert record["i2t"].shape == (2, 2, 4, ROWS, COLS, TEXT)
    np.testing.assert_allclose(record["region_mass"].sel(region="I2T"), 1, atol=1e-5)
    assert np.isnan(record["sigma"]).all()  # what its timestep means is not known
    assert record["step"].values.tolist() == [0, 1]
    runs = [block.attn2.runs for block in model.blocks]
    assert runs == [3 + 3, 3, 3, 3]  # three runs of the first block, at the first call alone


@pytest.mark.parametrize(
    ("options", "shape", "why"),
    [
        ({"joint": True}, (2, 4, ROWS, COLS), "do not move the queries that should be theirs"),
        ({"turned": True}, (2, 4, ROWS, COLS), "do not move the queries that should be theirs"),
        ({"last": True}, (2, 4, 3, 4), "do not move the queries that should be theirs"),
        ({"smeared": True}, (2, 4, ROWS, COLS), "do not move the queries that should be theirs"),
        ({"control": True}, (2, 4, ROWS, COLS), "layer 4 runs before layer 0"),
        ({"last": True}, (2, ROWS, COLS, 4), "its first layer has 12 queries and 5 keys, the layout 16 and 5"),
    ],
)
def test_what_is_not_as_it_seems_is_refused(options, shape, why):
    model = Unknown(**options).eval()
    refused = pytest.raises(ValueError, match=f"Unknown is in none of the families.*{why}.*give it as Probe")
    with refused as error, Probe(model, [RegionMass()]):
        model(**inputs(shape))
    assert "\n" not in str(error.value)


def test_channels_last_with_as_many_rows_as_channels_are_not_taken_for_a_grid():
    """(batch, rows, cols, channels), 4 x 3 tokens of 4 channels: 3 x 4 is the right number of tokens and the wrong axes."""
    model = Unknown(last=True).eval()
    given = inputs((2, 4, 3, 4))
    with pytest.raises(ValueError, match="in none of the families"), Probe(model, [I2TMaps()]):
        model(**given)
    with Probe(model, [I2TMaps()], layout=TokenLayout((4, 3), TEXT, scope="cross"), verify=True) as probe:
        model(**given)
    assert probe.dataset().attrs["grid"] == [4, 3]


def test_random_numbers_and_caches_are_left_alone():
    model = Unknown().train()
    given = inputs()
    torch.manual_seed(1)
    plain = model(**given)
    torch.manual_seed(1)
    with Probe(model, [RegionMass()]):
        assert torch.equal(model(**given), plain)
    options = {"scale": 2.0, "masks": [torch.ones(2)]}
    with Probe(model.eval(), [RegionMass()]):
        model(**given, options=options)
    refused = pytest.raises(ValueError, match="its argument cache is a Cache, which a check run might change")
    with refused, Probe(model, [RegionMass()]):
        model(**given, cache=type("Cache", (), {})())


def test_an_outer_probe_does_not_see_the_check():
    model = Unknown().eval()
    layout = TokenLayout((ROWS, COLS), TEXT, scope="cross")
    given = inputs()
    with Probe(model, [RegionMass()], layout=layout) as alone:
        model(**given)
    with Probe(model, [RegionMass()], layout=layout) as outer, Probe(model, [RegionMass()]):
        model(**given)
    assert alone.dataset()["region_mass"].equals(outer.dataset()["region_mass"])


def test_blocks_that_run_in_another_order_are_refused():
    model = Unknown().eval()
    model.blocks[1], model.blocks[2] = model.blocks[2], model.blocks[1]
    probe = Probe(model, [RegionMass()])
    model.blocks[1], model.blocks[2] = model.blocks[2], model.blocks[1]
    with pytest.raises(ValueError, match="layer 1 of Unknown ran after layer 2"), probe:
        model(**inputs())


def known(name, cases):
    (case,) = [case for case in cases if case.name == name]
    return case


KNOWN = [
    (known("flux", models_flux.CASES), "text-image"),
    (known("qwen", models_image.CASES), "text-image"),
    (known("auraflow", models_image.CASES), None),
    (known("pixart", CROSS), None),
    (known("wan", CROSS), None),
    (known("ltx-video", CROSS), None),
]


@pytest.mark.parametrize(("case", "order"), KNOWN, ids=lambda value: getattr(value, "name", value))
def test_a_known_layout_is_confirmed_on_request(case, order):
    model, given = case.model(), case.inputs()
    plain = model(**deepcopy(given), return_dict=False)[0]
    with Probe(model, [RegionMass()], verify=True):
        assert torch.equal(model(**deepcopy(given), return_dict=False)[0], plain)
    if order is None:
        return
    with Probe(model, [RegionMass()], layout=TokenLayout(case.grid, case.text, order), verify=True):
        model(**deepcopy(given))
    wrong = TokenLayout(case.grid, case.text, "image-text")
    turned = TokenLayout(case.grid[::-1], case.text, order)
    longer = TokenLayout(case.grid, case.text + 2, order)
    for layout in (wrong, longer) if model.config.get("patch_size") == 1 else (wrong, longer, turned):
        refused = pytest.raises(ValueError, match="does not confirm the layout")
        with refused, Probe(model, [RegionMass()], layout=layout, verify=True):
            model(**deepcopy(given))


def test_frames_in_the_batch_are_not_taken_for_samples():
    """A layout for single frames, given to a model that calls the attention with its frames in the batch."""

    class Folded(Unknown):
        def forward(self, hidden_states, encoder_hidden_states):
            frames = hidden_states.permute(0, 2, 3, 4, 1).flatten(0, 1).flatten(1, 2)
            text = self.words(encoder_hidden_states).repeat_interleave(hidden_states.shape[2], 0)
            x = self.embed(frames)
            for block in self.blocks:
                x = block(x, text)
            return x

    model = Folded().eval()
    refused = pytest.raises(ValueError, match="attention call has 4 batch rows, the forward pass 2")
    with refused, Probe(model, [RegionMass()], layout=TokenLayout((ROWS, COLS), TEXT, scope="cross")):
        model(**inputs((2, 4, 2, ROWS, COLS)))
