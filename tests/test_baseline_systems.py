"""The baselines end to end on small random models, and the steps that are theirs alone."""

import dataclasses
import types

import models_baselines as small
import numpy as np
import pytest
import torch
from small_pipelines import small_pipeline

from mmdit_probe import Probe
from mmdit_probe.attention.reductions import i2t_maps
from mmdit_probe.baselines import dense_clip
from mmdit_probe.baselines.attention_rows import Rows, image_rows, normalized
from mmdit_probe.baselines.corrclip import CorrCLIP, merged_regions, region_attention, spatial_layers, without_lowest
from mmdit_probe.baselines.counters import BaselineCounter
from mmdit_probe.baselines.dense_clip import DenseCLIP, dino_features, name_variants, probabilities, windows_of
from mmdit_probe.baselines.diffcut import DiffCut, cut_features
from mmdit_probe.baselines.diffseg import DiffSeg, all_resolutions, tiled
from mmdit_probe.baselines.diffsegmenter import DiffSegmenter
from mmdit_probe.baselines.iseg import ISeg
from mmdit_probe.baselines.loading import load_masks
from mmdit_probe.baselines.map_clusters import mixed_tokens
from mmdit_probe.baselines.prompt_words import spans_in, split_background, weighted
from mmdit_probe.baselines.proxyclip import ProxyCLIP, proxy_attention
from mmdit_probe.baselines.results import ranged, region_result
from mmdit_probe.baselines.sam import SamMasks, flattened, kept_masks, stability_of
from mmdit_probe.baselines.unet_reader import KeepAttention, UNetReader
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.configs.baselines import (
    CROSS_HEADS,
    VOC_HEADS,
    CorrCLIPConfig,
    DiffCutConfig,
    DiffSegConfig,
    DiffSegmenterConfig,
    ISegConfig,
    ProxyCLIPConfig,
    for_dataset,
)
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate
from mmdit_probe.families import UNET_SELF, UNetPlace, unet_places

CLASSES = ["grass", "wood floor", "circle"]
SCENES = held_out_scenes(2)


@pytest.fixture(scope="module")
def sd():
    return small.stable_diffusion()


@pytest.fixture(scope="module")
def sdxl():
    return small.stable_diffusion_xl()


@pytest.fixture
def image():
    return scene("val", 0).image


CLIP_SIZES = {"side": 48, "crop": 32, "stride": 16}


def make(name, sd, sdxl):
    if name in ("proxyclip", "corrclip"):
        model, processor = small.clip()
        if name == "proxyclip":
            return ProxyCLIP(model, processor, small.dino(), ProxyCLIPConfig(**CLIP_SIZES))
        masks = SamMasks(small.sam(), points=3, iou=-9.0, stability=0.0)
        return CorrCLIP(model, processor, small.dino(), masks, CorrCLIPConfig(**CLIP_SIZES))
    return {
        "diffsegmenter": lambda: DiffSegmenter(sd, DiffSegmenterConfig(side=64)),
        "iseg": lambda: ISeg(sd, ISegConfig(side=64)),
        "diffseg": lambda: DiffSeg(sd, DiffSegConfig(side=64)),
        "diffcut": lambda: DiffCut(sdxl, DiffCutConfig(side=64)),
    }[name]()


@pytest.mark.parametrize("name", ["diffsegmenter", "iseg", "proxyclip", "corrclip"])
def test_named_systems_segment_and_are_evaluated(name, sd, sdxl, image, tmp_path):
    system = make(name, sd, sdxl)
    made = system.segment(image[:50], CLASSES)
    assert made.labels.shape == (50, 64)
    assert made.classes == tuple(CLASSES)
    assert np.isfinite(made.logits).all()
    again = system.segment(image[:50], CLASSES)
    np.testing.assert_array_equal(made.labels, again.labels)
    turned = system.segment(image[:50], CLASSES[::-1])
    assert (turned.labels == 2 - made.labels).mean() > 0.6 if name != "iseg" else True  # its prompt has an order
    config = EvaluateConfig(method=name, batch=1)
    counter = BaselineCounter(system, config)
    result = tabulate(run_evaluation(None, SCENES, config, tmp_path, name, counter=counter))
    right = total = 0
    for sample in SCENES.samples:
        labels = sample.read()
        present = np.unique(labels)
        guess = present[system.segment(sample.image, [SCENES.classes[n] for n in present]).labels]
        right, total = right + (guess == labels).sum(), total + labels.size
    assert result.settings["pacc"].item() == pytest.approx(right / total)


@pytest.mark.parametrize("name", ["diffseg", "diffcut"])
def test_systems_without_words_group_and_are_evaluated(name, sd, sdxl, image, tmp_path):
    system = make(name, sd, sdxl)
    made = system.group(image[:50])
    assert made.labels.shape == (50, 64)
    assert sum(made.shares.values()) == pytest.approx(1)
    config = EvaluateConfig(task="unsupervised", method=name, batch=2)
    result = tabulate(run_evaluation(None, SCENES, config, tmp_path, name, counter=BaselineCounter(system, config)))
    assert list(result.settings["matching"]) == ["paper", "order-independent"]
    assert 0 < result.settings["miou"].iloc[0] < 1


def test_regions_keep_the_numbers_of_their_maps(image):
    maps = torch.zeros(4, 2, 2)
    maps[1, :, 0] = maps[3, :, 1] = 1.0  # maps 0 and 2 are the highest nowhere
    made = region_result(image, maps, {"method": "diffseg"})
    assert np.unique(made.labels).tolist() == [1, 3]
    assert made.classes == ("region 1", "region 2", "region 3", "region 4")
    assert made.shares["region 1"] == 0


class HalfAndHalf:
    """Three regions, whatever the image."""

    config = DiffCutConfig()

    def group(self, image):
        labels = np.repeat([[0, 0, 1, 2]], 4, 0)
        return types.SimpleNamespace(labels=labels)


@pytest.mark.parametrize(("method", "merged"), [("diffcut", True), ("diffseg", False)])
def test_diffcuts_regions_without_a_class_are_background(method, merged):
    labels = np.repeat([[1, 1, 0, 0]], 4, 0)
    counter = BaselineCounter(HalfAndHalf(), EvaluateConfig(task="unsupervised", method=method))
    named = counter.count([(np.zeros((4, 4, 3), np.uint8), labels)], ("background", "dog"))[0]
    hits = named[0, 0, 0, 0, 0]
    assert hits.tolist() == ([8, 8] if merged else [4, 8])
    plain = counter.count([(np.zeros((4, 4, 3), np.uint8), labels)], ("cat", "dog"))[0]
    assert plain[0, 0, 0, 0, 0].tolist() == [4, 8]


# U-Nets


def test_self_attention_of_every_block_is_read_and_the_output_unchanged(sd):
    latents, states = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 16)
    plain = sd.unet(latents, 10, encoder_hidden_states=states).sample
    own, cross = KeepAttention(), KeepAttention()
    with Probe(sd.unet, [cross]), Probe(sd.unet, [own], family=UNET_SELF):
        probed = sd.unet(latents, 10, encoder_hidden_states=states).sample
    assert torch.equal(plain, probed)
    places = unet_places(sd.unet)
    assert places[0] == UNetPlace("down", 0, 0, 0)
    assert [place.stage for place in places] == ["down"] * 2 + ["mid"] + ["up"] * 4
    assert sorted(own.found) == sorted(cross.found) == list(range(7))
    grids = [own.found[layer].layout.grid for layer in range(7)]
    assert grids == [(16, 16), (8, 8), (4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    attention = own.found[1]
    full = (attention.query @ attention.key.transpose(2, 3) * attention.scale).softmax(-1).mean(1)[0]
    torch.testing.assert_close(image_rows(attention)[0:64], full)
    assert cross.found[1].layout.keys == 77


def test_the_encoders_last_output_is_the_modules_own(sd, image):
    system = DiffCut(sd, DiffCutConfig(side=64))
    module = UNET_SELF.layers(sd.unet)[1]
    seen = []
    hook = module.register_forward_hook(lambda m, a, output: seen.append(output))
    reader = system.reader
    reader.run(reader.latents(image), reader.encode(""))
    hook.remove()
    torch.testing.assert_close(system.features(image).flatten(1).T, seen[0][0])


def test_noise_and_posterior_are_as_asked(sd, image):
    clean = UNetReader(sd, 64, 100, noisy=False).latents(image)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    kept = sd.scheduler.alphas_cumprod[100]
    found = UNetReader(sd, 64, 100, 3).latents(image)
    torch.testing.assert_close(found, kept.sqrt() * clean + (1 - kept).sqrt() * noise)
    sampled = UNetReader(sd, 64, 100, 3, sample=True).latents(image)
    assert not torch.allclose(found, sampled)
    with pytest.raises(ValueError, match="needs a Stable Diffusion U-Net pipeline"):
        UNetReader(small_pipeline("flux"), 64, 100)
    with pytest.raises(ValueError, match="multiple of 4 px"):
        UNetReader(sd, 63, 100)
    with pytest.raises(ValueError, match="timestep must be in 0 to 999"):
        UNetReader(sd, 64, 1000)


def test_rows_of_all_resolutions_against_the_loop(sd, image):
    reader = UNetReader(sd, 64, 300, noisy=False)
    latents = reader.latents(image)
    found = reader.kept(latents, reader.encode(""), None).found
    by_side = {}
    for attention in found.values():
        full = (attention.query @ attention.key.transpose(2, 3) * attention.scale).softmax(-1).mean(1)[0]
        by_side.setdefault(attention.layout.grid[0], []).append(full)
    expected = torch.zeros(256, 256)
    for side, layers in by_side.items():
        mean = torch.stack(layers).mean(0).unflatten(1, (side, side))
        finer = torch.nn.functional.interpolate(mean[None], size=(16, 16), mode="bilinear")[0].flatten(1)
        finer = finer / finer.sum(1, keepdim=True)
        for query in range(256):
            row, col = query // 16 * side // 16, query % 16 * side // 16
            expected[query] += side / sum(by_side) * finer[row * side + col]
    rows = all_resolutions(found, latents)
    torch.testing.assert_close(torch.cat([rows[0:100], rows[100:256]]), expected)
    same = tiled([Rows.of(torch.eye(6))], [(2, 3)], (2, 3))
    torch.testing.assert_close(same[1:4], torch.eye(6)[1:4])


def test_iseg_takes_the_late_block_and_scores_background(sd, image):
    system = ISeg(sd, ISegConfig(side=64))
    assert unet_places(sd.unet)[system.layer] == UNetPlace("up", 2, 1, 0)
    made = system.segment(image, ["background", "grass", "circle"])
    np.testing.assert_allclose(made.logits[0], (1 - made.logits[1:].max(0)) ** 2, atol=1e-6)
    maps = torch.from_numpy(made.logits[1:])
    wide = ranged(ranged(maps, (64, 64)), image.shape[:2])
    scores = torch.cat([(1 - wide.amax(0, keepdim=True)) ** 2, wide])
    assert (made.labels == scores.argmax(0).numpy()).mean() > 0.999
    constant = ISeg(sd, ISegConfig(side=64, background=0.45)).segment(image, ["grass", "background"])
    np.testing.assert_allclose(constant.logits[1], 0.45)
    np.testing.assert_allclose(constant.logits[0].max(), 1)
    with pytest.raises(ValueError, match="at least one class in addition to background"):
        system.segment(image, ["background"])


def test_iseg_reads_the_named_layers_and_heads(sd, image, monkeypatch):
    latents = UNetReader(sd, 64, 100).latents(image)
    kept = KeepAttention()
    with Probe(sd.unet, [kept]):
        sd.unet(latents, 100, encoder_hidden_states=torch.randn(1, 77, 16))
    places = [place for layer, place in enumerate(unet_places(sd.unet)) if kept.found[layer].layout.grid == (8, 8)]
    assert [(place.stage, place.number, place.attention) for place in places] == [
        ("down", 1, 0),
        ("up", 1, 0),
        ("up", 1, 1),
    ]
    named = ISegConfig(side=64, cross_layers=(("down", 1, 0), ("up", 1, 1)), level_weights=(0, 0.3), cross_heads=None)
    some = ISeg(sd, named)
    read = [layer for layer, place in enumerate(unet_places(sd.unet)) if place in (places[0], places[2])]
    each = torch.cat(
        [i2t_maps(kept.found[layer], "all")[0] for layer in read]
    )  # (heads of both layers, pixels, tokens)
    expected = mixed_tokens([each.mean(0).T.unflatten(1, (8, 8))], [0.3], (16, 16))
    torch.testing.assert_close(some._tokens(kept.found, latents, (16, 16)), expected)

    monkeypatch.setattr("mmdit_probe.baselines.iseg.CROSS_HEADS", (0, len(each)))
    chosen = ISeg(sd, dataclasses.replace(named, cross_heads=((), (len(each) - 1, 0))))
    expected = mixed_tokens([each[[-1, 0]].mean(0).T.unflatten(1, (8, 8))], [0.3], (16, 16))
    torch.testing.assert_close(chosen._tokens(kept.found, latents, (16, 16)), expected)
    # another U-Net's layers and heads have other numbers: all are read
    every = [i2t_maps(kept.found[layer])[0] for layer in kept.found if kept.found[layer].layout.grid == (8, 8)]
    expected = mixed_tokens([torch.stack(every).mean(0).T.unflatten(1, (8, 8))], [0.3], (16, 16))
    other = ISeg(sd, dataclasses.replace(named, cross_layers=ISegConfig().cross_layers, cross_heads=VOC_HEADS))
    torch.testing.assert_close(other._tokens(kept.found, latents, (16, 16)), expected)
    with pytest.raises(ValueError, match="iSeg needs cross-attention"):
        ISeg(sd, dataclasses.replace(named, level_weights=(0.0,)))._tokens(kept.found, latents, (16, 16))


def test_isegs_heads_are_those_of_stable_diffusion_2():
    for heads, count in zip(VOC_HEADS, CROSS_HEADS, strict=True):
        assert len(set(heads)) == len(heads)
        assert max(heads, default=-1) < max(count, 1)


@pytest.mark.parametrize(
    ("caption", "tokens"), [("", [5]), ("on sand", [5]), ("standing on sand", [5, 6]), (", running", [5])]
)
def test_a_diffsegmenter_class_is_its_last_token_and_a_next_word_in_ing(sd, image, monkeypatch, caption, tokens):
    seen = []
    monkeypatch.setattr(
        "mmdit_probe.baselines.diffsegmenter.token_map",
        lambda layers, span: seen.append(list(span)) or torch.rand(layers[0].layout.grid),
    )
    DiffSegmenter(sd, DiffSegmenterConfig(side=64, prompt="a photo of {}"), lambda image: caption).segment(
        image, ["wood floor"]
    )
    start = spans_in(sd, "a photo of wood floor", ["floor"])[0][-1]
    assert seen
    assert all(span == [token - 5 + start for token in tokens] for span in seen)


def test_a_diffsegmenter_class_has_a_pass_of_its_own(sd, image):
    system = DiffSegmenter(sd, DiffSegmenterConfig(side=64))
    both = system.segment(image, ["grass", "background", "circle"])
    np.testing.assert_allclose(both.logits[1], 0.5)
    np.testing.assert_allclose(both.logits[0], system.segment(image, ["grass"]).logits[0])
    told = DiffSegmenter(sd, system.config, lambda image: "on sand").segment(image, ["grass"])
    assert not np.allclose(told.logits, both.logits[:1])
    plain = DiffSegmenter(sd, dataclasses.replace(system.config, refine_steps=0)).segment(image, ["grass"])
    assert not np.allclose(plain.logits, both.logits[:1])


@pytest.mark.parametrize(
    "names", [["wood floor", "grass"], ["grass"], ["Wood Floor"], ["of", "floor", "and"], ["flo-or", "x2"]]
)
def test_words_are_where_their_token_ids_are(sd, names):
    """The slow way: each name's token ids, one after another, among the prompt's."""
    prompt = "a photo of wood floor and flo-or, x2 grass"
    ids, start, expected = sd.tokenizer(prompt).input_ids, 0, []
    for name in names:
        piece = sd.tokenizer(name, add_special_tokens=False).input_ids
        at = next(i for i in range(start, len(ids)) if ids[i : i + len(piece)] == piece)
        start = at + len(piece)
        expected.append(tuple(range(at, start)))
    assert spans_in(sd, prompt, names) == expected


def test_words_are_found_and_weighted(sd):
    spans = spans_in(sd, "a of wood floor and grass", ["wood floor", "grass"])
    assert spans == [(3, 4), (6,)]
    with pytest.raises(ValueError, match="'circle' was not found"):
        spans_in(sd, "a grass", ["circle"])
    with pytest.raises(ValueError, match="offer fewer classes"):
        spans_in(sd, "sand " * 90 + "grass", ["grass"])
    features, empty = torch.rand(1, 5, 3), torch.rand(1, 5, 3)
    longer = weighted(features, [(1, 2)], 1.6)
    torch.testing.assert_close(longer[:, 1:3], 1.6 * features[:, 1:3])
    assert torch.equal(longer[:, [0, 3, 4]], features[:, [0, 3, 4]])
    torch.testing.assert_close(weighted(features, [(1,)], 0.0, empty)[:, 1], empty[:, 1])
    assert split_background(["a", "background", "b"]) == (["a", "b"], 1)
    assert split_background(["a"]) == (["a"], None)


def test_two_halves_of_features_are_cut_apart_on_a_finer_grid():
    features = torch.zeros(2, 64, 64)
    features[0, :, :20] = features[1, :, 20:] = 1
    maps = cut_features(features, DiffCutConfig())
    assert maps.shape == (2, 128, 128)
    labels = maps.argmax(0)
    assert (labels[:, :40] == labels[0, 0]).all()
    assert (labels[:, 41:] != labels[0, 0]).all()
    assert cut_features(features[:, :4, 18:22], DiffCutConfig()).shape == (2, 4, 4)


# CLIP


def test_proxy_attention_by_the_loop():
    features = torch.randn(2, 7, 5)
    found = proxy_attention(features, 1.2, 3.0)
    for window in range(2):
        unit = features[window] / features[window].norm(dim=1, keepdim=True)
        cosine = unit @ unit.T
        for i in range(7):
            scores = 3 * (cosine[i] - 1.2 * cosine.mean())
            weights = [float(s.exp()) if s >= 0 or j == i else 0.0 for j, s in enumerate(scores)]
            np.testing.assert_allclose(found[window, i], np.array(weights) / sum(weights), atol=1e-6)
    assert (found == 0).any()


def test_regions_attend_to_themselves_and_to_what_is_in_none():
    features, regions = torch.randn(8, 4), torch.tensor([0, 0, 1, 1, 1, -1, -1, 2])
    found = region_attention(features, regions, 4.0)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    unit = features / features.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    for i in range(8):
        for j in range(8):
            free = regions[i] < 0 or regions[j] < 0
            open_to = cosine[i, j] > cosine.mean() if free else regions[i] == regions[j]
            assert (found[i, j] > 0) == bool(open_to or i == j)
        kept = found[i] > 0
        torch.testing.assert_close(found[i, kept], (4 * cosine[i, kept]).softmax(0))
    inside = region_attention(features[:5], regions[:5], 4.0)  # without such points: each region alone
    assert (inside[:2, 2:] == 0).all()
    assert (inside[2:, :2] == 0).all()


def test_masks_of_alike_features_are_one_region():
    features = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [1, 0.05], [0.1, 1]])
    masks = torch.tensor([4, 4, 7, 9, -1])
    assert merged_regions(features, masks, 0.2, 1).tolist() == [0, 0, 1, 0, -1]
    assert merged_regions(features * torch.tensor([[1.0], [9], [1], [5], [1]]), masks, 0.2, 1).tolist() == [
        0,
        0,
        1,
        0,
        -1,
    ]
    assert merged_regions(features, torch.full((5,), -1), 0.2, 1).tolist() == [-1] * 5
    assert merged_regions(features, masks.clamp(min=4), 0.2, 1).tolist() == [-1, -1, 0, 1, -1]  # 4 is the lowest number
    assert merged_regions(features, torch.tensor([-1, 3, 3, 3, 3]), 0.2, 1).tolist() == [-1, 3, 3, 3, 3]
    assert without_lowest(np.array([[3, 1], [1, 2]])).tolist() == [[3, -1], [-1, 2]]


def test_the_lower_layers_are_those_of_the_released_code():
    assert [spatial_layers(count) for count in (12, 24, 32)] == [slice(6, 11), slice(11, 23), slice(3, 31)]
    assert spatial_layers(16) == slice(3, 15)
    assert spatial_layers(4) == slice(2, 3)
    with pytest.raises(ValueError, match="needs 1 to 0 layers of a CLIP with 2, got 1"):
        spatial_layers(2)
    model, processor = small.clip()
    with pytest.raises(ValueError, match="needs 1 to 2 layers of a CLIP with 4, got 3"):
        CorrCLIP(model, processor, small.dino(), lambda image: image[..., 0], CorrCLIPConfig(spatial_layers=3))


def test_a_regions_class_token_sees_its_region_and_the_images_class_token():
    model, processor = small.clip()
    clip, image = DenseCLIP(model, processor), torch.randn(1, 3, 32, 32)
    everything = torch.ones(1, 16, dtype=torch.bool)
    regions = torch.cat([everything, torch.arange(16)[None] < 4])
    states, tokens = clip.region_layers(image, regions)
    for ours, plain in zip(states, clip.layers(image), strict=True):
        torch.testing.assert_close(ours, plain)  # nothing attends to the regions' tokens
    first = clip.vision.encoder.layers[0]
    plain = states[0]
    for region in range(2):  # the first block by hand: one query, the image's token and the region's patches as keys
        seen = torch.cat([plain[:, :1], plain[:, 1:][:, regions[region]]], 1)
        normed, attention = first.layer_norm1(seen), first.self_attn
        split = [part(normed)[0].unflatten(-1, (2, 8)).transpose(0, 1) for part in
                 (attention.q_proj, attention.k_proj, attention.v_proj)]  # fmt: skip
        weights = (split[0][:, :1] @ split[1].transpose(1, 2) / 8**0.5).softmax(-1)
        own = plain[:, :1] + attention.out_proj((weights @ split[2]).transpose(0, 1).flatten(1))[None]
        expected = own + first.mlp(first.layer_norm2(own))
        clip.vision.encoder.layers, kept = torch.nn.ModuleList([first]), clip.vision.encoder.layers
        torch.testing.assert_close(clip.region_layers(image, regions)[1][region], expected[0, 0])
        clip.vision.encoder.layers = kept
    assert not torch.allclose(tokens[0], tokens[1])


def test_windows_cover_the_image_and_their_mean_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (30, 70, 3)).astype(np.uint8)
    resized, windows = windows_of(image, 48, 32, 16)
    assert resized.shape == (48, 112, 3)
    values = torch.rand(2, 48, 112)
    torch.testing.assert_close(windows.joined(windows.cut(values)), values)
    assert max(y for y, _ in windows.corners) == 16
    small_image, one = windows_of(image, 20, 32, 16)
    assert small_image.shape[0] == 32
    assert one.corners[0] == (0, 0)
    long, wide = windows_of(np.zeros((20, 200, 3), np.uint8), 336, 16, 16)  # the longer side is at most 2048 px
    assert long.shape == (205, 2048, 3)
    assert wide.size == (205, 2048)
    with pytest.raises(ValueError, match="stride must be in 1 to crop"):
        windows_of(image, 48, 32, 33)


def test_dense_clip_is_clip_with_its_own_attention(image):
    """The parts put together again give the model's own output."""
    model, processor = small.clip()
    clip = DenseCLIP(model, processor)
    images = torch.randn(2, 3, 32, 32)
    states = clip.layers(images)
    expected = model.vision_model(images).last_hidden_state
    torch.testing.assert_close(states[-1], expected)
    text = clip.text(["grass", "circle"])
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    given = processor.tokenizer([t.format("circle") for t in dense_clip.TEMPLATES], padding=True, return_tensors="pt")
    each = model.get_text_features(**given)
    each = getattr(each, "pooler_output", each)
    mean = torch.nn.functional.normalize(each, dim=1).mean(0)
    torch.testing.assert_close(text[1], mean / mean.norm())


def test_dino_features_and_their_grid():
    model = small.dino()
    images = torch.randn(1, 3, 32, 24)
    last = dino_features(model, images, "last")
    assert last.shape == (1, 8, 6, 16)
    torch.testing.assert_close(
        last.flatten(1, 2), model(images, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    )
    both = dino_features(model, images, "query-key")
    first, block = model.layers if hasattr(model, "layers") else model.encoder.layer  # as in transformers 5.0
    states = first(model.embeddings(images, interpolate_pos_encoding=True))
    states = states[0] if isinstance(states, tuple) else states
    normed = block.layernorm_before(states)
    attention = getattr(block.attention, "attention", block.attention)
    query, key = (
        getattr(attention, names[hasattr(attention, names[1])]) for names in (("query", "q_proj"), ("key", "k_proj"))
    )
    expected = query(normed) + key(normed)
    torch.testing.assert_close(both.flatten(1, 2), expected[:, 1:])


def test_synonyms_and_background():
    assert name_variants(["dog, puppy", "sea/ocean"]) == (["dog", "puppy", "sea", "ocean"], [0, 0, 1, 1])
    scores = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.0]])[..., None]
    shares = probabilities(scores, [0, 0, 1], ["dog", "sea"], 40.0, 0.2)
    torch.testing.assert_close(shares[0, 0], (40 * scores[:, 0]).softmax(0)[1])
    lost = probabilities(scores, [0, 0, 1], ["dog", "background"], 40.0, 0.4)
    assert lost.argmax(0).flatten().tolist() == [0, 1]


# SAM


def test_masks_are_chosen_by_quality_and_without_copies():
    logits = torch.full((4, 6, 6), -5.0)
    logits[0, :3] = logits[1, :3] = 5.0  # a copy
    logits[2, 3:, :2] = 0.5  # not stable
    logits[3, 4:] = 5.0
    assert stability_of(logits).tolist() == [1, 1, 0, 1]
    scores = torch.tensor([0.8, 0.9, 0.99, 0.5])
    assert kept_masks(logits, scores, 0.4, 0.4) == [1, 3]
    assert kept_masks(logits, scores, 0.6, 0.0) == [2, 1]
    shapes = np.zeros((2, 4, 4), bool)
    shapes[0, 1:3, 1:3] = True
    shapes[1, :, :3] = True
    numbers = flattened(shapes)
    assert numbers[1, 1] == numbers[0, 0] == 1  # the larger one lies on top
    assert numbers[0, 3] == -1
    shapes[1, 1:3, 1:3] = False
    assert flattened(shapes)[1, 1] == 0  # the smallest has the lowest number


@pytest.mark.parametrize("model", [small.sam, small.sam2])
def test_sam_gives_numbered_masks_of_the_images_size(image, model, tmp_path):
    masks = SamMasks(model(), points=3, iou=-9.0, stability=0.0)
    assert masks.side == 64
    found = masks(image[:40])
    assert found.shape == (40, 64)
    assert found.max() >= 0
    assert (SamMasks(model(), points=3, iou=99.0)(image) == -1).all()
    masks.model.save_pretrained(tmp_path)
    loaded = load_masks(str(tmp_path), config=CorrCLIPConfig(points=3, iou=-9.0, stability=0.0))
    np.testing.assert_array_equal(loaded(image[:40]), found)


def test_points_are_given_as_x_and_y(image, monkeypatch):
    masks, seen = SamMasks(small.sam(), points=2), {}
    original = masks.model.forward

    def forward(**given):
        seen.update(given)
        return original(**given)

    monkeypatch.setattr(masks.model, "forward", forward)
    masks(image)
    assert seen["multimask_output"] is False  # one mask for each point
    assert seen["input_points"].shape == (1, 4, 1, 2)
    assert seen["input_points"][0, :, 0].tolist() == [[16, 16], [48, 16], [16, 48], [48, 48]]


def test_settings_by_data_set():
    coco = ISegConfig(entropy=0.2, iterations=10, background=0.45, cross_heads=None)
    assert for_dataset(ISegConfig(), "coco-object") == coco
    assert for_dataset(ISegConfig(), "voc20") == for_dataset(ISegConfig(), "") == ISegConfig()
    assert for_dataset(ISegConfig(), "ade20k") == ISegConfig(cross_heads=None)
    assert for_dataset(DiffSegmenterConfig(), "coco-object").prompt == "a photography of {}"
    assert for_dataset(DiffSegmenterConfig(), "voc21") == DiffSegmenterConfig()
    for config in (ProxyCLIPConfig, CorrCLIPConfig):
        assert for_dataset(config(), "voc21") == config()
        assert for_dataset(config(), "ade20k") == config(side=448)
        assert for_dataset(config(), "cityscapes") == config(side=448, crop=224)
        assert for_dataset(config(), "coco-object-background") == config(background=0.25)
        assert for_dataset(config(), "context") == config(background=0.15)
    assert normalized(torch.zeros(1, 2)).tolist() == [[0, 0]]
