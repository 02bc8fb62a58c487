import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from mmdit_probe import I2TMaps, Probe, ValueNorms
from mmdit_probe.families import TextPart
from mmdit_probe.pipelines.prompts import describe, find_words
from mmdit_probe.tiny.tokenizer import END, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(12)


@pytest.fixture
def clip(tokenizer):
    return TextPart("clip", tokenizer, 12)


def test_words_are_found_with_all_their_tokens_and_all_their_occurrences(clip):
    prompt = "a red half moon above a blue half moon"
    assert find_words([clip], prompt, ["half moon", "red", "above"]) == [[3, 4, 8, 9], [2], [5]]


def test_words_are_found_in_every_encoder(clip, tokenizer):
    assert find_words([clip, TextPart("t5", None, 3), clip], "red sand", ["sand"]) == [[2, 17]]


def test_a_word_that_one_encoder_cut_off_is_found_in_the_other(clip):
    longer = TextPart("t5", make_tokenizer(20), 20)
    assert find_words([clip, longer], "a " * 12 + "lava", ["lava"]) == [[12 + 13]]


def test_punctuation_and_case_do_not_hide_a_word(clip):
    assert find_words([clip], "Grass, sand!", ["grass", "Sand"]) == [[1], [3]]


@pytest.mark.parametrize(("prompt", "word"), [("sand", "and"), ("xyz", "xy"), ("xyz", "yz"), ("sand", " ")])
def test_a_part_of_a_word_is_not_it(clip, prompt, word):
    """xyz is three tokens here."""
    with pytest.raises(ValueError, match=rf"'{word}' is not among the prompt's tokens: .*{prompt[0]}"):
        find_words([clip], prompt, [word])


def test_a_word_that_the_tokenizer_cut_off_shows_the_tokens(clip):
    with pytest.raises(ValueError, match="'lava' is not among"):
        find_words([clip], "a " * 12 + "lava", ["lava"])


def sentencepiece():
    """Pieces that carry the space before them, as T5's do."""
    pieces = ["<pad>", "</s>", "\u2581", "\u2581a", "\u2581cat", "a", "mar", "an", ",", "\u00c9", "glise", "\u2581red"]
    return piece_tokenizer(pieces, pre_tokenizers.Metaspace())


def byte_level():
    """Pieces of bytes, as Qwen's: a Chinese character is three of them."""
    return piece_tokenizer(["<pad>", "</s>", *sorted(ByteLevel.alphabet())], ByteLevel(add_prefix_space=False))


def piece_tokenizer(pieces, pre_tokenizer):
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize(
    ("make", "prompt", "word", "spelt"),
    [
        (sentencepiece, "a catamaran, a cat", "cat", [["cat"]]),
        (sentencepiece, "a cat, a catamaran", "cat", [["cat"]]),
        (sentencepiece, "a catamaran", "catamaran", [["cat", "a", "mar", "an"]]),
        (sentencepiece, "a \u00c9glise, red", "\u00e9glise", [["\u00c9", "glise"]]),
        (byte_level, "\u4e00\u53ea\u72d7 red", "\u72d7", [["\u72d7", "", ""]]),
        (byte_level, "\u4e00\u53ea\u72d7 red", "\u53ea\u72d7", [["\u53ea", "", "", "\u72d7", "", ""]]),
        (byte_level, "a \N{DOG FACE}, red", "\N{DOG FACE}", [["\N{DOG FACE}", "", "", ""]]),
    ],
)
def test_words_in_other_tokenizers(make, prompt, word, spelt):
    """Whole words only; scripts without spaces have no whole words; bytes are shown as their character."""
    part = TextPart("other", make(), 40)
    text = describe([part], [prompt])
    assert [
        [string for string in text.strings[0][span] if string or make is byte_level]
        for span in find_words([part], prompt, [word])
    ] == spelt


def test_ends_within_a_template_do_not_end_the_prompt(tokenizer):
    """As the chat templates of Qwen, whose turns end with the tokenizer's own end."""
    part = TextPart("qwen", tokenizer, 10, f"a moon{END} on {{}}{END} above", special_tokens=False, cut=1)
    text = describe([part], ["a red heart"])
    kinds = ["template"] * 3 + ["word"] * 3 + ["template"] * 2 + ["padding"] * 2
    assert list(text.kinds[0]) == kinds


def test_shorter_batches_are_padded_when_joined(tokenizer):
    part = TextPart("t5", tokenizer, 12, multiple=1)
    text = describe([part], ["a red heart"], negative=["sand"])
    assert text.kinds.tolist() == [["start", "word", "end", "padding", "padding"], ["start", *["word"] * 3, "end"]]
    assert list(text.encoders) == ["t5"] * 5


def test_kinds_of_text_positions(tokenizer):
    parts = [TextPart("clip", tokenizer, 12), TextPart("t5", None, 3)]
    text = describe(parts, ["grass", "a red heart"], negative=["", "sand"], images=2)
    assert text.kinds.shape == (8, 15)
    assert list(text.conditional) == [False] * 4 + [True] * 4
    assert list(text.kinds[4, :4]) == ["start", "word", "end", "padding"]
    assert list(text.kinds[6, :6]) == ["start", "word", "word", "word", "end", "padding"]
    assert list(text.strings[6, 1:4]) == ["a", "red", "heart"]
    assert (text.kinds[:, 12:] == "absent").all()
    assert text.is_prompt.sum(1).tolist() == [0, 0, 1, 1, 1, 1, 3, 3]
    assert list(text.encoders) == ["clip"] * 12 + ["t5"] * 3


def test_the_probe_knows_the_prompts_tokens_and_the_halves(random_pipe):
    arguments = {"num_inference_steps": 2, "max_sequence_length": 3, "output_type": "latent"}
    with Probe(random_pipe.transformer, [I2TMaps(), ValueNorms()]) as probe:
        random_pipe(["a red circle", "sand"], num_images_per_prompt=2, guidance_scale=4.0, **arguments)
    both, kept = probe.dataset(), probe.dataset("conditional")
    assert both.sizes["batch"] == 8
    assert list(both["conditional"].values) == [False] * 4 + [True] * 4
    assert kept.sizes["batch"] == probe.dataset("unconditional").sizes["batch"] == 4
    assert list(kept["token_text"].values[1, 1:4]) == ["a", "red", "circle"]
    assert list(kept["token_text"].values[2, 1:2]) == ["sand"]
    assert kept.attrs["text_tokens"] == 27
    np.testing.assert_array_equal(kept["i2t"], both["i2t"].isel(batch=slice(4, 8)))
    norms = kept["value_norm"].sel(stream="prompt")
    assert norms.notnull().all()
    assert both["value_norm"].sel(stream="prompt").isel(batch=slice(0, 4)).isnull().all()  # "" has no words
    assert "encode_prompt" not in random_pipe.__dict__


def test_prompt_norms_are_those_of_the_words_alone(random_pipe):
    from mmdit_probe import Readout

    class Keep(Readout):
        def measure(self, attention):
            seen.append(attention)
            return {}

    seen = []
    with Probe(random_pipe, [ValueNorms(), Keep()], layers=[1]) as probe:
        random_pipe(
            "a red circle", num_inference_steps=1, guidance_scale=1.0, max_sequence_length=0, output_type="latent"
        )
    (attention,) = seen
    words = attention.value[:, :, attention.layout.text_slice][:, :, 1:4]
    norms = probe.dataset()["value_norm"].sel(stream="prompt").isel(call=0, layer=0)
    np.testing.assert_allclose(norms, words.norm(dim=-1).mean(-1), rtol=1e-5)


def test_without_guidance_there_is_no_unconditional_half(random_pipe):
    with Probe(random_pipe, [ValueNorms()]) as probe:
        random_pipe("sand", num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    assert probe.unguided
    assert probe.dataset("conditional").sizes["batch"] == 1


def test_given_embeddings_leave_the_tokens_unknown(random_pipe):
    features, _, pooled, _ = random_pipe.encode_prompt("sand", None, None, do_classifier_free_guidance=False)
    with Probe(random_pipe, [ValueNorms()]) as probe:
        random_pipe(
            prompt_embeds=features,
            pooled_prompt_embeds=pooled,
            num_inference_steps=1,
            guidance_scale=1.0,
            output_type="latent",
        )
    record = probe.dataset("conditional")  # which rows they are is known from the call
    assert record["conditional"].values.tolist() == [True]
    assert "token_text" not in record.coords
    assert record.attrs["words"].startswith("unknown: no prompt was seen")
    with pytest.raises(ValueError, match="nothing was recorded"):
        probe.dataset("unconditional")
