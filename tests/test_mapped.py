import os

import ml_dtypes
import numpy as np
import pytest

from jaxinterp import mapped


@pytest.fixture
def touched(monkeypatch):
    """How many bytes were read by the file, and not through the map."""
    counts, preadv = [], os.preadv

    def counted(*arguments):
        counts.append(preadv(*arguments))
        return counts[-1]

    monkeypatch.setattr(os, "preadv", counted)
    return counts


def saved(path, array, before=7):
    path.write_bytes(b"x" * before + np.asarray(array).tobytes())
    raw = mapped.bytes_of(path)[before:]
    return raw.view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8])
def test_parts_that_lie_together_are_read_without_the_map(dtype, tmp_path, touched):
    array = np.random.default_rng(0).integers(-99, 99, (4, 5, 6)).astype(dtype)
    view = saved(tmp_path / "a", array)
    parts = {
        "whole": np.s_[:],
        "rows": np.s_[1:3],
        "a row's rows": np.s_[2:3, 1:4],
        "a part of one row": np.s_[1:2, 3:4, 2:5],
    }
    for name, part in parts.items():
        touched.clear()
        wanted = array[part]
        for order in (range(wanted.ndim), range(wanted.ndim)[::-1]):
            got = mapped.read(view[part].transpose(order))
            np.testing.assert_array_equal(got, wanted.transpose(order), name)
        assert sum(touched) == 2 * wanted.nbytes, name


def test_parts_that_lie_apart_are_read_through_the_map(tmp_path, touched):
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    view = saved(tmp_path / "a", array)
    parts = {
        "columns": np.s_[:, 1:3],
        "every other": np.s_[::2],
        "from the end": np.s_[::-1],
        "one number of each": np.s_[..., 2],
    }
    for name, part in parts.items():
        np.testing.assert_array_equal(mapped.read(view[part]), array[part], name)
    spread = np.broadcast_to(view[:1], (3, 5, 6))
    np.testing.assert_array_equal(mapped.read(spread), np.repeat(array[:1], 3, 0))
    assert not touched


def test_what_is_filled_is_filled_right_or_not_at_all(tmp_path):
    array = np.arange(20, dtype=np.float32).reshape(4, 5)
    view = saved(tmp_path / "a", array, before=8)
    out = np.zeros((6, 5), np.float32)
    assert mapped.read_into(out[1:5], view)
    np.testing.assert_array_equal(out[1:5], array)
    assert not out[[0, 5]].any()
    turned = np.zeros((5, 4), np.float32, order="F")
    assert mapped.read_into(turned, view.T)
    np.testing.assert_array_equal(turned, array.T)
    apart = np.zeros((4, 6), np.float32)[:, :5]
    for refused in (np.zeros((4, 5)), np.zeros((4, 5), np.float32, order="F"), apart):
        assert not mapped.read_into(refused, view)
        assert not refused.any()
    assert not mapped.read_into(np.zeros((4, 5), np.float32), array)  # no map


def test_arrays_in_memory_are_given_back_as_they_are():
    array = np.arange(6.0)
    assert mapped.read(array[1:3]).base is array


def test_the_file_stays_open_as_long_as_a_view_of_it_and_no_longer(tmp_path):
    def held():
        return sum(os.path.realpath(f"/proc/self/fd/{n}") == str(path) for n in os.listdir(folder))

    path, folder = (tmp_path / "a").resolve(), "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("this system does not list a process' open files")
    view = saved(path, np.arange(5.0))
    os.rename(path, tmp_path / "b")  # as when a file is replaced by a newer one
    np.testing.assert_array_equal(mapped.read(view), np.arange(5.0))
    path = tmp_path.resolve() / "b"
    assert held() > 0
    del view
    assert held() == 0


def test_a_file_that_is_cut_while_it_is_read_is_told(tmp_path):
    view = saved(tmp_path / "a", np.arange(5000.0))
    os.truncate(tmp_path / "a", 8 * 3000)
    for part in (view, view[::2]):
        with pytest.raises(ValueError, match="a was cut while it was read: get it again"):
            mapped.read(part)


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_is_missing_or_empty_is_told(content, tmp_path):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a can't be read"):
        mapped.bytes_of(tmp_path / "a")
