"""Every variable and coordinate of a record says what it is and in which units, also after a trip through a file."""

import pytest
import torch
import xarray as xr

from mmdit_probe import (
    ConceptMaps,
    Contributions,
    Correspondence,
    FeaturePCA,
    Field,
    HeadGroupMaps,
    HeadStats,
    I2IMaps,
    I2TMaps,
    KeyMass,
    KindMass,
    OutputMaps,
    PairMaps,
    Probe,
    Readout,
    RegionMass,
    T2IMaps,
    T2TMaps,
    ValueNorms,
    WordMaps,
    load_record,
    save_record,
)
from mmdit_probe.probe.coordinates import _MEANINGS
from mmdit_probe.readouts import Axis, I2TScores, RefinedI2T
from mmdit_probe.studies.recording import by_timestep

SHARES = {"1"}
READOUTS = {  # each with the units of its variables
    ConceptMaps(["lava"]): SHARES,
    Contributions([[1, 2]]): SHARES,
    Correspondence("output"): SHARES,
    FeaturePCA(stream="both"): SHARES,
    HeadGroupMaps(): SHARES,
    HeadStats(): {"nat", "1"},
    I2IMaps(): SHARES,
    I2TMaps(): SHARES,
    I2TMaps("all"): SHARES,
    I2TScores(): SHARES,
    KeyMass(): SHARES,
    KeyMass(every=2): SHARES,
    KindMass(): SHARES,
    OutputMaps(): SHARES,
    PairMaps(): SHARES,
    RefinedI2T(): SHARES,
    RegionMass(): SHARES,
    T2IMaps(): SHARES,
    T2TMaps(): SHARES,
    ValueNorms(): SHARES,
    WordMaps([[1, 2]]): SHARES,
    WordMaps([[1, 2]], "t2i", "all"): SHARES,
}


def recorded(pipe, *readouts, **options):
    with Probe(pipe, readouts, **options) as probe:
        pipe("a red circle", num_inference_steps=2, guidance_scale=3.0, max_sequence_length=2, output_type="latent")
    return probe


def assert_described(record):
    for name, values in record.variables.items():
        assert len(values.attrs.get("long_name", "")) > 5, name
        assert values.attrs.get("units"), name


@pytest.mark.parametrize("readout", READOUTS, ids=lambda readout: type(readout).__name__)
def test_a_readouts_variables_and_coordinates_are_described(random_pipe, tmp_path, readout):
    record = recorded(random_pipe, readout).dataset()
    assert_described(record)
    assert {values.attrs["units"] for values in record.data_vars.values()} == READOUTS[readout]
    assert all(values.attrs["long_name"] != str(name).replace("_", " ") for name, values in record.data_vars.items())
    xr.testing.assert_identical(load_record(save_record(record, tmp_path / "record.nc")), record)


def test_every_coordinate_of_the_table_occurs(random_pipe):
    record = recorded(random_pipe, I2TMaps()).dataset()
    assert set(record.coords) == set(_MEANINGS) - {"branch"}  # of perturbed rows: see test_guidance_branches


def test_a_record_by_timestep_is_described(random_pipe):
    probe = recorded(random_pipe, RegionMass())
    assert_described(by_timestep(probe, [1, 0], [1, 2], [1, 0]))


def test_a_readout_of_ones_own_states_its_own(sd3, inputs):
    side = Axis("side", ("left", "right"), "half of the image tokens")

    class Sides(Readout):
        def measure(self, attention):
            halves = attention.lse[:, :, attention.layout.image_queries].unflatten(-1, (2, -1)).mean(-1)
            fields = {"lse_of_half": Field(("batch", "head", "side"), halves, "mean log-sum-exp", "nat", (side,))}
            return fields | {"plain_one": Field(("batch",), torch.zeros(2))}

    with Probe(sd3, [Sides()]) as probe:
        sd3(**inputs)
    record = probe.dataset()
    assert record["lse_of_half"].attrs == {"long_name": "mean log-sum-exp", "units": "nat"}
    assert record["plain_one"].attrs == {"long_name": "plain one", "units": "1"}
    assert record["side"].values.tolist() == ["left", "right"]
    assert record["side"].attrs["long_name"] == "half of the image tokens"
