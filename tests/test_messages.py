"""Values that processes tell each other arrive as they were, or are refused."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxinterp.messages import pack, unpack


def same(a, b):
    """Types and values, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list | tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


NUMBERS = st.one_of(
    st.floats(width=64).map(np.float64),
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
    st.booleans().map(np.bool_),
)
ARRAYS = hnp.arrays(
    st.sampled_from(["f2", "f4", "f8", "i1", "u4", "i8", "?", "c8", ">f8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN | NUMBERS | ARRAYS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.integers() | st.tuples(st.integers()), inner),
    ),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_packed_arrives_as_it_was(value):
    assert same(unpack(pack(value)), value)


def test_float64_is_not_rounded_and_arrays_can_be_written_to():
    value = {"sum": np.array([1 + 2**-52, -0.0, np.inf, np.nan]), 3: (0.1, None, True)}
    found = unpack(pack(value))
    assert same(found, value)
    found["sum"][0] = 2.0
    half = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(2, 3)
    assert same(unpack(pack([half.T, half[0, 1]])), [np.ascontiguousarray(half.T), half[0, 1]])


class Pair(NamedTuple):
    a: int


@pytest.mark.parametrize(
    "value",
    [
        Pair(1),  # would arrive as a tuple
        OrderedDict(a=1),
        {1, 2},
        b"bytes",
        Path("a"),
        object(),
        len,
        jnp.ones(2),
        np.array([object()]),
        np.array(["text"]),
        np.datetime64("2020-01-01"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="can't be told to another process"):
        pack({"inside": [value]})


def test_bytes_of_something_else_are_refused():
    message = pack({"a": np.arange(4.0)})
    text = json.dumps({"call": ["os.system", "true"]}).encode()
    foreign = len(text).to_bytes(8, "little") + text
    objects = json.dumps({"array": ["|O", [1]]}).encode()
    for broken in (
        message[:-1],
        message + b"x",
        b"",
        message[:12],
        foreign,
        len(objects).to_bytes(8, "little") + objects + bytes(8),
    ):
        with pytest.raises(ValueError, match="a message of"):
            unpack(broken)
