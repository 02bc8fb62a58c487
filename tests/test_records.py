import json

import numpy as np
import pytest
import xarray as xr
from conftest import make_inputs

from mmdit_probe import I2TMaps, Probe, RegionMass, load_record, save_record
from mmdit_probe.storage import records


@pytest.fixture
def record(sd3, inputs):
    with Probe(sd3, [RegionMass(), I2TMaps()]) as probe:
        sd3(**inputs)
    return probe.dataset()


def test_a_saved_record_reads_back_the_same(record, tmp_path):
    path = save_record(record, tmp_path / "deep" / "record.nc")
    xr.testing.assert_identical(load_record(path), record)
    assert [file.name for file in path.parent.iterdir()] == ["record.nc"]


def test_a_record_says_where_it_comes_from(record):
    assert record.attrs["family"] == "sd3"
    assert record.attrs["transformer"] == "SD3Transformer2DModel"
    assert record.attrs["grid"] == [4, 6]
    assert record.attrs["text_tokens"] == 7
    assert record.attrs["kernels"] == "flash-cpu"
    assert '"torch"' in record.attrs["versions"]


def test_a_layer_that_a_call_skipped_is_nan(sd3, inputs):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
        sd3(**inputs, skip_layers=[1])
    mass = probe.dataset()["region_mass"]
    assert mass.isel(call=1).sel(layer=1).isnull().all()
    assert mass.isel(call=0).notnull().all()


def test_a_write_that_fails_leaves_the_old_record(record, tmp_path, monkeypatch):
    path = save_record(record, tmp_path / "record.nc")
    before = path.read_bytes()

    def broken(self, content):
        with self.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", broken)
    with pytest.raises(ValueError, match=r"record.nc can't be written \(No space left on device\)"):
        save_record(record, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["record.nc"]


@pytest.mark.parametrize("content", [b"", b"not a record", None])
def test_unreadable_files_are_explained(tmp_path, content):
    path = tmp_path / "record.nc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="no file" if content is None else "not a readable"):
        load_record(path)


def test_a_truncated_record_is_refused(record, tmp_path):
    path = save_record(record, tmp_path / "record.nc")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="not a readable"):
        load_record(path)


def test_a_package_that_is_not_installed_is_named_so(monkeypatch):
    def missing(name):
        raise records.PackageNotFoundError(name)

    records._version.cache_clear()
    monkeypatch.setattr(records, "version", missing)
    assert json.loads(records.versions()["versions"])["mmdit-probe"] == "not installed"
    records._version.cache_clear()


def test_a_record_of_another_version_is_refused(record, tmp_path):
    path = save_record(record.assign_attrs(format=99), tmp_path / "record.nc")
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        load_record(path)


def test_an_unknown_half_is_refused(sd3):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**make_inputs())
    with pytest.raises(ValueError, match="cfg_branch must be"):
        probe.dataset("left")


def test_values_are_fp32_and_finite(record):
    assert all(values.dtype == np.float32 for values in record.data_vars.values())
    assert all(bool(np.isfinite(values).all()) for values in record.data_vars.values())


def test_a_record_that_another_program_wrote_is_read_and_a_damaged_one_of_ours_is_not(record, tmp_path):
    """Only our own files have a seal behind their end, where HDF5 does not look."""
    record.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    xr.testing.assert_identical(
        load_record(tmp_path / "theirs.nc"), load_record(save_record(record, tmp_path / "ours.nc"))
    )
    content = bytearray((tmp_path / "ours.nc").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "ours.nc").write_bytes(content)
    with pytest.raises(ValueError, match="damaged; make it again"):
        load_record(tmp_path / "ours.nc")
