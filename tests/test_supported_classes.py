"""Every transformer and U-Net that diffusers exports has a family, or is refused by name with a reason."""

import diffusers
import pytest
from diffusers.models import _import_structure

from mmdit_probe.families import FAMILIES, OUT_OF_SCOPE, family_of

EXPORTED = sorted(
    name
    for module, names in _import_structure.items()
    if module.startswith(("transformers.", "unets."))
    for name in names
    if name in dir(diffusers)
)


def test_every_class_of_this_release_is_known():
    known = {family.transformer for family in FAMILIES}
    assert len(EXPORTED) > 60
    unknown = [name for name in EXPORTED if name not in known and name not in OUT_OF_SCOPE]
    assert not unknown, f"new in diffusers {diffusers.__version__}: give each a family, or a line in out_of_scope.py"
    assert not known & OUT_OF_SCOPE.keys()


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "StableAudioDiTModel", "PriorTransformer"])
def test_a_class_out_of_scope_is_refused_by_name(name):
    kind = getattr(diffusers, name)
    with pytest.raises(ValueError, match=f"{name} is out of scope: it makes"):
        family_of(kind.__new__(kind))


def test_subclasses_of_known_classes_are_their_own_families():
    """DreamLite's U-Net derives from Stable Diffusion's."""
    assert family_of(diffusers.DreamLiteUNetModel.__new__(diffusers.DreamLiteUNetModel)).name == "dreamlite"
    assert family_of(diffusers.UNet2DConditionModel.__new__(diffusers.UNet2DConditionModel)).name == "unet"
