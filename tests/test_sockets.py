"""Edits before the kernel and on a block's streams, against full matrices and hand-written blocks."""

import math

import models_flux
import models_image
import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3
from naive import full_matrix, random_call

from mmdit_probe import (
    Bias,
    BlockEdit,
    BlurText,
    Bypass,
    Edit,
    GroupKeys,
    HeadScale,
    JointAttention,
    Knockout,
    Probe,
    Regions,
    RemoveKeys,
    Scale,
    ScaleText,
    SelfAttend,
    TokenLayout,
)
from mmdit_probe.attention.layout import Extra
from mmdit_probe.attention.reordered import Arrangement
from mmdit_probe.attention.text_tokens import Kind, TextTokens
from mmdit_probe.edits.attention_block import Rows
from mmdit_probe.edits.base import apply_in_order
from mmdit_probe.edits.places import on_grid, place_mask
from mmdit_probe.probe.editor import Editor

WORDS = ["a", "red", "circle", "and", "sand", "."]


def tokens_of(batch):
    words = np.array([WORDS] * batch, object)
    true = np.ones(words.shape, bool)
    kinds = np.full(words.shape, Kind.WORD, object)
    return TextTokens(words, kinds, np.array(["t5"] * len(WORDS), object), np.ones(batch), true, true)


@pytest.fixture(params=["image-text", "text-image", "grouped", "masked", "references"])
def attention(request):
    """A call of every kind that a joint model makes."""
    order = "image-text" if request.param == "image-text" else "text-image"
    extras = (Extra("reference", 4, "last"),) if request.param == "references" else ()
    layout = TokenLayout((3, 4), len(WORDS), order, extras)
    more = {"kv_heads": 2, "enable_gqa": True} if request.param == "grouped" else {}
    if request.param == "masked":
        mask = torch.ones(2, 1, 1, layout.tokens, dtype=torch.bool)
        mask[1, ..., layout.text_slice.stop - 1] = False
        more = {"attn_mask": mask}
    return JointAttention(random_call(2, 4, layout.tokens, 8, **more), layout, text=tokens_of(2))


def run(attention, *edits):
    """What the edits make of the call, as a probe applies them."""
    editor = Editor(edits, [0])
    prepared, output = editor.prepared(attention, None)
    output = editor.edited(prepared, output)
    return prepared.output if output is None else output


def full_values(attention):
    value = attention.value.double()
    return value.repeat_interleave(attention.heads // value.shape[1], 1)


def scores_of(attention):
    matrix = full_matrix(attention.call)
    return matrix.log()  # up to a constant of each row


def same(ours, twin):
    torch.testing.assert_close(ours.double(), twin, atol=1e-5, rtol=0)


def columns(attention, *places):
    return np.arange(attention.layout.keys)[attention.layout.text_keys][list(places)]


@pytest.mark.parametrize("amount", [0.3, 1.0])
def test_self_attend_equals_mixing_in_the_identity(attention, amount):
    layout, matrix = attention.layout, full_matrix(attention.call)
    image = layout.image_queries
    mixed = (1 - amount) * matrix[:, :, image]
    mixed[..., layout.image_keys] += amount * torch.eye(layout.image, dtype=torch.float64)
    matrix[:, :, image] = mixed
    same(run(attention, SelfAttend(0, amount)), matrix @ full_values(attention))


def test_removed_keys_equal_minus_infinity_before_the_softmax(attention):
    layout, scores = attention.layout, scores_of(attention)
    places = [layout.image_keys.start + 5, *columns(attention, 2)]
    scores[:, :, layout.image_queries, places] = -math.inf
    ours = run(attention, RemoveKeys(0, words=["circle"], keys=[places[0]]))
    same(ours, scores.softmax(-1) @ full_values(attention))


def test_sinks_are_the_keys_that_the_image_attends_to_most(attention):
    image, scores = attention.layout.image_queries, scores_of(attention)
    top = full_matrix(attention.call)[:, :, image].mean(2).topk(3, -1).indices
    scores[:, :, image] = scores[:, :, image].scatter(-1, top[:, :, None].expand(-1, -1, 12, -1), -math.inf)
    same(run(attention, RemoveKeys(0, sinks=3)), scores.softmax(-1) @ full_values(attention))


def test_as_many_random_keys_are_drawn_for_each_head_and_stay_the_same(attention):
    edit = RemoveKeys(0, random=3)
    assert torch.equal(run(attention, edit), run(attention, RemoveKeys(0, random=3)))
    assert not torch.equal(run(attention, edit), run(attention, RemoveKeys(0, random=3, seed=1)))
    drawn = torch.from_numpy(edit._drawn(attention))
    assert drawn.sum(-1).tolist() == [[3, 3, 3, 3]] * 2
    assert not (drawn & ~attention.seen_keys[:, None]).any()
    assert len({tuple(row) for row in drawn[0].tolist()}) > 1


def test_removing_what_a_query_has_leaves_nothing():
    layout = TokenLayout((2, 2), 3, scope="cross")
    call = random_call(1, 2, 4, 8)
    text = random_call(1, 2, 3, 8, seed=1)
    cross = JointAttention(type(call)(call.query, text.key, text.value), layout)
    assert not run(cross, RemoveKeys(0, keys=range(3))).any()


@pytest.mark.parametrize("strength", [-3.0, 0.7, 30.0])
def test_bias_equals_adding_to_the_scores(attention, strength):
    layout, scores = attention.layout, scores_of(attention)
    mask = np.zeros((3, 4))
    mask[1:, :2] = 1
    mask[0, 0] = 0.5
    gain = torch.zeros_like(scores)
    first = layout.image_queries.start
    gain[:, :, first : first + 12, columns(attention, 1, 4)] = strength * torch.from_numpy(mask).flatten()[:, None]
    ours = run(attention, Bias(0, ["red", "sand"], strength, where=mask))
    same(ours, (scores + gain).softmax(-1) @ full_values(attention))


LEFT, RIGHT = (0, 0, 0.5, 1), (0.5, 0, 1, 1)


@pytest.mark.parametrize("hard", [False, True])
def test_regions_equal_a_bias_on_the_full_matrix(attention, hard):
    layout, scores = attention.layout, scores_of(attention)
    image = np.arange(layout.tokens)[layout.image_slice].reshape(3, 4)
    halves, words = (image[:, :2].ravel(), image[:, 2:].ravel()), (columns(attention, 1, 2), columns(attention, 4))
    if hard:
        for _, outside, own, others in ((*halves, *words), (*halves[::-1], *words[::-1])):
            for rows, cols in ((outside, own), (own, outside), (own, others)):
                scores[:, :, rows[:, None], cols] = -math.inf
    else:
        for inside, outside, own in ((*halves, words[0]), (*halves[::-1], words[1])):
            scores[:, :, inside[:, None], own] += 2
            scores[:, :, outside[:, None], own] -= 2
    ours = run(attention, Regions({"red circle": LEFT, "sand": RIGHT}, hard=hard))
    same(ours, scores.softmax(-1) @ full_values(attention))


def test_head_scale_multiplies_heads_alone(attention):
    plain = attention.output
    ours = run(attention, HeadScale(0, [1, 3], -2))
    assert torch.equal(ours[:, [0, 2]], plain[:, [0, 2]])
    torch.testing.assert_close(ours[:, [1, 3]], -2 * plain[:, [1, 3]])


@pytest.mark.parametrize("stream", ["image", "text"])
def test_group_keys_equal_moving_the_keys(attention, stream):
    layout, call = attention.layout, attention.call
    key = call.key.double()
    place = layout.image_keys if stream == "image" else layout.text_keys
    mean = key[:, :, place].mean(2, keepdim=True)
    if call.arguments.attn_mask is not None and stream == "text":
        mean[1] = key[1:, :, place][:, :, :-1].mean(2, keepdim=True)  # the last one is masked
    key[:, :, place] = 0.5 * mean + 1.7 * (key[:, :, place] - mean)
    twin = full_matrix(type(call)(call.query, key.float(), call.value, call.arguments))
    same(run(attention, GroupKeys(0, stream, 0.5, 1.7)), twin @ full_values(attention))


def test_reference_keys_are_found_by_name():
    layout = TokenLayout((2, 2), 3, "text-image", (Extra("reference", 2, "last"), Extra("register", 1, "first")))
    assert layout.keys_named("reference") == [slice(8, 10)]
    assert layout.keys_named("register") == [slice(0, 1)]
    attention = JointAttention(random_call(1, 2, layout.tokens, 8), layout)
    assert not torch.equal(run(attention, GroupKeys(0, "reference", delta=0)), attention.output)
    with pytest.raises(
        ValueError, match="there are no mask keys in this layer; give one of image, reference, register, text"
    ):
        run(attention, GroupKeys(0, "mask", 2))


IDENTITIES = [
    SelfAttend(0, 0),
    RemoveKeys(0),
    Bias(0, "red", 0),
    Regions({"red": LEFT}, strength=0),
    HeadScale(0, None, 1),
    GroupKeys(0),
    Scale(0, 1),
]


@pytest.mark.parametrize("edit", IDENTITIES, ids=lambda edit: type(edit).__name__)
def test_settings_that_say_nothing_change_no_bit(attention, edit):
    assert torch.equal(run(attention, edit), attention.output)


CHANGES = [
    lambda **k: SelfAttend(0, 0.5, **k),
    lambda **k: RemoveKeys(0, keys=[1], **k),
    lambda **k: Bias(0, "red", 2, **k),
    lambda **k: Regions({"red": LEFT}, **k),
    lambda **k: Regions({"red": LEFT}, hard=True, **k),
    lambda **k: GroupKeys(0, "text", 2, **k),
]


@pytest.mark.parametrize("make", CHANGES)
def test_heads_rows_and_steps_that_are_not_chosen_stay_bit_for_bit(attention, make):
    plain = attention.output
    ours = run(attention, make(heads=[1], batch=[0]))
    assert torch.equal(ours[1], plain[1])
    assert torch.equal(ours[0, [0, 2, 3]], plain[0, [0, 2, 3]])
    assert not torch.equal(ours[0, 1], plain[0, 1])
    assert torch.equal(run(attention, make(steps=[3])), plain)


def test_edits_of_one_pass_compose_as_their_matrices_do(attention):
    layout, scores = attention.layout, scores_of(attention)
    word, image = columns(attention, 1), layout.image_queries
    scores[:, :, image, word] += 1.5
    scores[:, :, image, layout.image_keys.start] = -math.inf
    matrix = scores.softmax(-1)
    rows = 0.6 * matrix[:, :, image]
    rows[..., layout.image_keys] += 0.4 * torch.eye(layout.image, dtype=torch.float64)
    matrix[:, :, image] = rows
    edits = Bias(0, "red", 1.5), RemoveKeys(0, keys=[layout.image_keys.start]), SelfAttend(0, 0.4)
    same(run(attention, *edits), matrix @ full_values(attention))
    other = run(attention, *edits[::-1])
    assert not torch.allclose(other, run(attention, *edits), atol=1e-3)  # the order counts


def test_edits_before_the_kernel_come_before_those_of_the_output(attention):
    keys, word = GroupKeys(0, "text", 0.5, 2), Bias(0, "red", 2)
    assert torch.equal(run(attention, word, keys), run(attention, keys, word))
    moved = keys.before(attention)
    torch.testing.assert_close(run(attention, keys, word), apply_in_order([word], moved, moved.output, Rows(moved)))


class Negative(Edit):
    """Query, key and value change their signs; and a key is forbidden."""

    def before(self, call):
        mask = torch.ones(1, 1, 1, call.layout.keys, dtype=torch.bool)
        mask[..., 0] = False
        mask = mask.expand(1, 1, call.layout.queries, -1)
        return call.changed(query=-call.query, key=2 * call.key, value=-call.value, mask=mask)


def test_an_own_edit_before_the_kernel_is_taken_where_it_applies(attention):
    ours = run(attention, Negative(0, heads=[0, 1, 2]))
    changed = Negative(0).before(attention)
    twin = full_matrix(changed.call) @ full_values(changed)
    torch.testing.assert_close(ours[:, :3].double(), twin[:, :3], atol=1e-5, rtol=0)
    assert torch.equal(ours[:, 3], attention.output[:, 3])


def test_tokens_in_another_order_are_changed_where_the_model_has_them():
    layout = TokenLayout((2, 2), 3, "image-text")
    order = torch.tensor([[3, 4, 5, 6, 0, 1, 2], [2, 3, 4, 5, 0, 1, -1]])
    call = random_call(2, 2, 7, 8)
    packed = random_call(2, 2, 6, 8)
    for original, own in ((call, order[:1].expand(2, -1)), (packed, order[1:].expand(2, -1))):
        found = JointAttention(Arrangement(own).of(original), layout)
        for edit in (GroupKeys(0, "text", 0.5, 2), Negative(0)):
            straight = edit.before(found).call
            twin = full_matrix(straight) @ straight.value.double()
            ours = found.call.restored(torch.zeros_like(found.output)) * 0 + run(found, edit)
            present = own[0] >= 0
            torch.testing.assert_close(ours[:, :, own[0][present]].double(), twin[:, :, present], atol=1e-5, rtol=0)


def test_an_edit_before_the_kernel_does_not_undo_an_outer_probes(sd3, inputs):
    with (
        Probe(sd3, [], edits=[BlurText(1)]),
        Probe(sd3, [], edits=[GroupKeys(1, delta=2)]),
        pytest.raises(ValueError, match="an outer probe has changed this layer's output already"),
    ):
        sd3(**inputs)


def test_an_inner_probe_sees_the_call_that_the_outer_one_changed(sd3, inputs):
    from mmdit_probe import RegionMass

    with Probe(sd3, [RegionMass()], edits=[GroupKeys(1, "text", 3)]) as outer, Probe(sd3, [RegionMass()]) as inner:
        sd3(**inputs)
    assert outer.dataset().region_mass.equals(inner.dataset().region_mass)


@pytest.mark.parametrize("dual", [(), (0, 1)])
@pytest.mark.parametrize("edit", [GroupKeys(1, "text", 3), Bypass(1), ScaleText(1, 0), SelfAttend(1, 1)])
def test_the_model_is_as_before_after_an_exception(dual, edit, inputs):
    model = make_sd3(dual=dual)
    plain = model(**inputs).sample

    def fail(*_):
        raise RuntimeError

    with pytest.raises(RuntimeError), Probe(model, [], edits=[edit]):
        assert not torch.equal(model(**inputs).sample, plain)
        model.transformer_blocks[2].register_forward_pre_hook(fail)
        model(**inputs)
    model.transformer_blocks[2]._forward_pre_hooks.clear()
    assert torch.equal(model(**inputs).sample, plain)


@pytest.mark.parametrize("dual", [(), (0, 1)])
def test_a_bypassed_block_is_one_that_returns_what_it_is_given(dual, inputs):
    model = make_sd3(dual=dual)
    with Probe(model, [], edits=[Bypass(1)]):
        ours = model(**inputs).sample
    block = model.transformer_blocks[1]
    block.forward = lambda hidden_states, encoder_hidden_states, **_: (encoder_hidden_states, hidden_states)
    assert torch.equal(ours, model(**inputs).sample)


CASES = {
    case.name: case
    for case in (*models_flux.CASES, *models_image.CASES)
    if case.name in ("flux", "flux-kontext", "flux2", "chroma", "qwen")
}


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # Chroma's own import
@pytest.mark.parametrize("name", CASES)
def test_blocks_of_other_families(name):
    case = CASES[name]
    model, inputs = case.model(), case.inputs()
    plain = model(**inputs)[0]
    seen = {}

    class Look(BlockEdit):
        def leave(self, given, made):
            seen[made.layer] = given, made
            return made

    with Probe(model, [], edits=[Look(None), ScaleText(None, 1), HeadScale(None, None, 1)]):
        assert torch.equal(model(**inputs)[0], plain)
    assert sorted(seen) == list(range(len(Probe(model, []).modules)))
    for layer, (given, _made) in seen.items():
        assert given.image.shape[1] == math.prod(case.grid)
        assert given.text.shape[1] == case.text
        assert layer == 0 or torch.equal(given.image, seen[layer - 1][1].image)
        assert layer == 0 or torch.equal(given.text, seen[layer - 1][1].text)
    for layer in seen:
        with Probe(model, [], edits=[Bypass(layer), Look(None)]):
            assert not torch.equal(model(**inputs)[0], plain)
        assert torch.equal(seen[layer][1].image, seen[layer][0].image)
    last = max(seen)
    with Probe(model, [], edits=[ScaleText(last, 0), Look(None)]):
        model(**inputs)
    assert not seen[last][0].text.any()


def test_text_that_is_louder_says_no_more_in_the_last_block(sd3, inputs):
    """A block normalizes what it reads, and the last gives no text on."""
    plain = sd3(**inputs).sample
    with Probe(sd3, [], edits=[ScaleText(2, 2)]):
        torch.testing.assert_close(sd3(**inputs).sample, plain, atol=1e-4, rtol=0)
    with Probe(sd3, [], edits=[ScaleText(2, 0)]):
        assert (sd3(**inputs).sample - plain).abs().max() > 1e-3


def test_blocks_are_edited_in_some_rows_steps_and_words_alone(random_pipe):
    seen = []

    class Look(BlockEdit):
        def enter(self, streams):
            seen.append(streams)
            return streams

    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "max_sequence_length": 2, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    with Probe(random_pipe, [], edits=[ScaleText(0, 0, words=["circle"], steps=[1]), Look(0, batch="all")]):
        random_pipe("a red circle on grass", generator=generator, **call)
    silent = [streams.text.abs().sum(-1) == 0 for streams in seen]
    assert [found.sum().item() for found in silent] == [0, 1]
    assert silent[1][1, 3]  # the prompt's row, the word


def test_blocks_run_again_by_checkpointing_are_edited_again(inputs):
    model = make_sd3().requires_grad_(True)
    gradients = []
    for checkpoint in (False, True):
        if checkpoint:
            model.enable_gradient_checkpointing()
        model.train()
        model.zero_grad()
        with Probe(model, [], edits=[ScaleText(1, 0), Bypass(2), GroupKeys(1, delta=2)]):
            model(**inputs).sample.square().sum().backward()
        gradients.append(model.transformer_blocks[0].attn.to_q.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_blocks_that_are_not_known_are_refused():
    from models_video import CASES as VIDEO

    with pytest.raises(
        ValueError, match=r"the residual streams of \w+'s blocks \[0\] are not known; take edits of the attention"
    ):
        Probe(VIDEO[0].model(), [], edits=[Bypass(0)])


def test_masks_and_boxes_are_shares_of_tokens():
    layout = TokenLayout((2, 4), 3)
    box = on_grid(place_mask("x", (0, 0, 0.375, 1)), layout).view(2, 4)
    torch.testing.assert_close(box, torch.tensor([[1, 0.5, 0, 0]] * 2))
    fine = np.zeros((8, 8), bool)
    fine[:, :2] = True
    torch.testing.assert_close(on_grid(place_mask("x", fine), layout).view(2, 4), torch.tensor([[1.0, 0, 0, 0]] * 2))
    assert on_grid(place_mask("x", fine), TokenLayout((3, 2, 4), 3)).shape == (24,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfAttend(0, 1.5), "SelfAttend: amount must be in 0 to 1, got 1.5"),
        (lambda: HeadScale(0, 1, math.inf), "factor must be a finite number"),
        (lambda: Bypass(0, heads=[1]), "residual streams have no heads"),
        (lambda: Bypass(0, words=["red"]), "a whole block is left out"),
        (lambda: RemoveKeys(0, sinks=-1), "numbers of keys"),
        (lambda: Bias(0, [], 1), "give at least one word"),
        (lambda: Bias(0, "red", 1e9), "give -50 to 50"),
        (lambda: Bias(0, "red", 1, where=(0, 0, 2, 1)), "a box must be left, top, right, bottom"),
        (lambda: Bias(0, "red", 1, where=np.zeros((3, 3))), "the mask is empty"),
        (lambda: Bias(0, "red", 1, where=np.full((3, 3), 7)), "numbers from 0 to 1"),
        (lambda: Regions({}), "give at least one word and its place"),
        (lambda: GroupKeys(0, words=["red"]), "a whole stream's keys"),
        (lambda: ScaleText(0, math.nan), "factor must be a finite number"),
    ],
)
def test_bad_settings_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_keys_than_there_are_are_refused(attention):
    with pytest.raises(ValueError, match=r"layer 0 has \d+ keys, 100 are asked for"):
        run(attention, RemoveKeys(0, sinks=100))


def test_bf16_calls_are_edited_in_their_own_precision():
    model, inputs = make_sd3().bfloat16(), make_inputs(dtype=torch.bfloat16)
    with Probe(model, [], edits=[GroupKeys(0, delta=2), SelfAttend(1, 0.5), ScaleText(1, 2), RemoveKeys(2, sinks=1)]):
        assert model(**inputs).sample.dtype == torch.bfloat16


def test_an_edit_that_overrides_nothing_is_refused(attention):
    with pytest.raises(TypeError, match="must override change or before"):
        run(attention, Edit(0))
    assert not torch.equal(run(attention, Knockout(0)), attention.output)
