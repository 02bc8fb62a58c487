"""Classes of diffusers that are refused by name, each with the reason."""

from __future__ import annotations

_SOUND = "it makes sound, which has no grid of image tokens"
_NO_TEXT = "it has no attention to text"

OUT_OF_SCOPE = {
    "AceStepTransformer1DModel": _SOUND,
    "AudioLDM2UNet2DConditionModel": _SOUND,
    "LongCatAudioDiTTransformer": _SOUND,
    "MiniMaxMusic3Transformer1DModel": _SOUND,
    "MiniMaxMusic3RVQDepthDecoder": _SOUND,
    "StableAudio3DiTModel": _SOUND,
    "StableAudioDiTModel": _SOUND,
    "T5FilmDecoder": _SOUND,
    "UNet1DModel": _SOUND,
    "SanaWMLTX2RefinerTransformer3DModel": "it refines chunks of a video with keys from a cache, whose queries form no grid",
    "DreamLiteTransformer2DModel": "it is a part of DreamLite's U-Net; probe the U-Net",
    "DualTransformer2DModel": "it is a part of a U-Net; probe the U-Net",
    "I2VGenXLUNet": "its keys are words and a given image's features in one sequence, of which no layout is known",
    "UVit2DModel": "it predicts the codes of masked tokens, without a noise level",
    "DiTTransformer2DModel": "it makes images of a class; " + _NO_TEXT,
    "Kandinsky6SRTransformer3DModel": "it makes videos larger; " + _NO_TEXT,
    "MotionAdapter": "it holds the parts that AnimateDiff adds to a U-Net; probe the U-Net",
    "PriorTransformer": "it makes one CLIP embedding, which has no grid of image tokens",
    "RFD4ProteinaTransformer": "it makes proteins",
    "TransformerSpatioTemporalModel": "it is a part of a U-Net for videos of a given image; " + _NO_TEXT,
    "TransformerTemporalModel": "it is a part of a U-Net, in which frames attend to frames; " + _NO_TEXT,
    "UNet2DModel": _NO_TEXT,
    "UNetControlNetXSModel": "it runs a U-Net and its control side by side, in blocks of its own",
    "UNetSpatioTemporalConditionModel": "it animates a given image; " + _NO_TEXT,
}
"""Why a class can't be probed, by its name."""
