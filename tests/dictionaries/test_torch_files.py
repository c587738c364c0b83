import io
import os
import pickle
import pickletools
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxinterp.dictionaries.formats import torch_files

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = (
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
)


def archive(path, program, members=None, compression=zipfile.ZIP_STORED):
    """A file as torch writes it, around any pickle; storage 0 holds six float32 numbers."""
    held = {
        "byteorder": b"little",
        "version": b"3\n",
        "data/0": np.arange(6, dtype="<f4").tobytes(),
    }
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {"data.pkl": program, **held, **(members or {})}.items():
            file.writestr(f"any/{name}", data)
    return path


def tensor(offset=b"K\x00", shape=b"K\x02K\x03\x86", strides=b"K\x03K\x01\x86"):
    """The operations that make a tensor of storage 0."""
    return TENSOR + STORAGE + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"


def state(value):
    return b"\x80\x02}X\x01\x00\x00\x00w" + value + b"s."


def test_the_hand_made_file_is_one_that_torch_reads(tmp_path):
    """So that the hostile ones below are refused for what is hostile in them."""
    path = archive(tmp_path / "a.pt", state(tensor()))
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(torch_files.read_tensors(path)["w"], expected)
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(torch.load(path, weights_only=True)["w"], expected)


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_writes_is_read(tmp_path, protocol):
    torch = pytest.importorskip("torch")
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"]
    values = torch.linspace(0, 90, 35).reshape(7, 5)
    tensors = {
        name: values.to(getattr(torch, name)) for name in [*names, "uint8", "bool", "uint16"]
    }
    tensors |= {"turned": values.T, "view": values[2:5, 1::2], "number": torch.tensor(3)}
    tensors |= {"none": torch.zeros(0, 3), "parameter": torch.nn.Parameter(values)}
    torch.save(tensors, tmp_path / "a.pt", pickle_protocol=protocol)
    read = torch_files.read_tensors(tmp_path / "a.pt")
    assert set(read) == set(tensors)
    for name, value in tensors.items():
        assert str(value.dtype) == f"torch.{read[name].dtype}", name
        expected = value.detach().to(torch.float64).numpy()
        np.testing.assert_array_equal(read[name].astype(np.float64), expected, err_msg=name)
        assert not read[name].flags.writeable or not read[name].size
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "b.pt")  # an OrderedDict with attributes
    assert set(torch_files.read_tensors(tmp_path / "b.pt")) == set(module.state_dict())


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    x = np.linspace(0, 90, 35).reshape(7, 5)
    kinds = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.uint8]
    tensors = {np.dtype(kind).name: x.astype(kind) for kind in kinds}
    tensors |= {"turned": x.T, "number": np.asarray(7, np.int32), "none": np.zeros((0, 3))}
    path = tmp_path / "a.pt"
    torch_files.write_tensors(path, tensors)
    for options in ({}, {"mmap": True}):
        read = torch.load(path, weights_only=True, **options)
        assert list(read) == list(tensors)
        for name, value in tensors.items():
            assert str(read[name].dtype) == f"torch.{value.dtype}"
            np.testing.assert_array_equal(
                read[name].to(torch.float64), value.astype(np.float64), err_msg=name
            )
    back = torch_files.read_tensors(path)
    assert all(
        back[name].tobytes() == np.ascontiguousarray(tensors[name]).tobytes() for name in back
    )
    # Mapped memory begins at a page: where the bytes are aligned in the file, they are in memory.
    assert {back[name].ctypes.data % 64 for name in back if back[name].size} == {0}
    with pytest.raises(ValueError, match="w has type complex64"):
        torch_files.write_tensors(tmp_path / "b.pt", {"w": np.ones(2, np.complex64)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt"]


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Built:
    """An object whose attributes are set, which a class may turn into anything."""


def global_of(name):
    return b"c" + name + b"\n"


def deep(depth):
    return b")" + b"\x85" * depth


HOSTILE = {
    "system": ("MARK", "posix.system"),
    "eval": (pickle.dumps({"w": Call(eval, "open('MARK', 'w')")}, 2), "__builtin__.eval"),
    "eval-4": (pickle.dumps({"w": Call(eval, "open('MARK', 'w')")}, 4), "builtins.eval"),
    "getattr": (
        state(global_of(b"builtins\ngetattr") + TENSOR + b"X\x01\x00\x00\x00a\x86R"),
        "builtins.getattr",
    ),
    "attribute of an allowed name": (
        state(b"X\x0c\x00\x00\x00torch._utilsX\x1e\x00\x00\x00_rebuild_tensor_v2.__globals__\x93"),
        "torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "another function of an allowed module": (
        state(global_of(b"torch._utils\n_import_dotted_name") + b"X\x02\x00\x00\x00os\x85R"),
        "_import_dotted_name",
    ),
    "name that is no string": (state(b"K\x01K\x02\x93"), "whose name is no string"),
    "name that a terminal would obey": (
        state(b"X\x04\x00\x00\x00\x1b[2JX\x01\x00\x00\x00x\x93"),
        r"asks for '\\x1b\[2J.x'",
    ),
    "copies of a list": (
        state(global_of(b"collections\nOrderedDict") + b"](K\x01K\x02\x86e\x85R"),
        "OrderedDict is made of something",
    ),
    "copies of a tuple": (
        state(tensor(shape=global_of(b"torch\nSize") + b"(" + b"K\x01" * 17 + b"t\x85R")),
        "torch.Size is not made of a tuple of few",
    ),
    "key without a value": (b"\x80\x02}(X\x01\x00\x00\x00au.", "a key without a value"),
    "steps beyond an address": (
        state(
            tensor(
                shape=b"K\x01\x85", strides=b"\x8a\x08" + (1 << 61).to_bytes(8, "little") + b"\x85"
            )
        ),
        "not a state dict of torch",
    ),
    "nothing, but much of it": (
        state(tensor(shape=b"K\x00\x8a\x08" + (1 << 61).to_bytes(8, "little") + b"\x86")),
        "too big",
    ),
    "class": (pickle.dumps({"w": Built()}, 2), "copy_reg._reconstructor|Built"),
    "new object": (state(global_of(b"collections\nOrderedDict") + b")\x81"), "operation NEWOBJ"),
    "old instance": (state(b"(icollections\nOrderedDict\n"), "operation INST"),
    "old object": (state(b"(" + global_of(b"collections\nOrderedDict") + b"o"), "operation OBJ"),
    "extension": (state(b"\x82\x01"), "operation EXT1"),
    "attributes": (state(b"}}X\x07\x00\x00\x00__len__K\x01sb"), "gives an object attributes"),
    "attributes of a name": (
        state(global_of(b"collections\nOrderedDict") + b"}X\x09\x00\x00\x00_metadata}sb"),
        "fills something that is no dict",
    ),
    "call of a value": (state(b"X\x01\x00\x00\x00a)R"), "calls something that is not a function"),
    "call of a storage's type": (state(global_of(b"torch\nFloatStorage") + b"K\x09\x85R"), "calls"),
    "call without a tuple": (state(TENSOR + b"]R"), "without a tuple"),
    "call with others": (state(TENSOR + b"X\x01\x00\x00\x00aK\x01\x86R"), "not made of a storage"),
    "persistent id": (state(b"X\x07\x00\x00\x00storageQ"), "persistent id is not"),
    "persistent id of text": (state(b"Pstorage\n"), "operation PERSID"),
    "storage of a function": (
        state(STORAGE[1:].replace(b"torch\nFloatStorage", b"torch\nSize")),
        "torch.Size is no storage",
    ),
    "storage elsewhere": (
        state(STORAGE[1:].replace(b"X\x01\x00\x00\x000", b"X\x08\x00\x00\x00../../ab")),
        "lacks the bytes of storage",
    ),
    "more than the storage": (state(tensor(shape=b"K\x03K\x03\x86")), "larger than its storage"),
    "steps past the storage": (
        state(tensor(strides=b"K\x04K\x01\x86")),
        "larger than its storage",
    ),
    "repeated storage": (
        state(tensor(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", strides=b"K\x00K\x00\x86")),
        "larger than its storage",
    ),
    "before the storage": (state(tensor(offset=b"J\xff\xff\xff\xff")), "not sizes"),
    "backwards": (state(tensor(strides=b"J\xff\xff\xff\xffK\x01\x86")), "not sizes"),
    "size that is deep": (state(tensor(shape=deep(20_000) + b"K\x01\x86")), "not sizes"),
    "huge integer": (state(b"\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20)), "operation LONG4"),
    "text integer": (state(b"I" + b"9" * 4000 + b"\n"), "operation INT"),
    "key that is deep": (b"\x80\x02}" + deep(20_000) + b"K\x01s.", "a tuple is a key"),
    "memo": (state(b"h\x09"), "object 9, which it does not have"),
    "memo far away": (
        b"\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7eK\x01s.",
        "which it does not have",
    ),
    "empty stack": (b"\x80\x02s.", "takes more than there is"),
    "mark": (b"\x80\x02}(s.", "takes more than there is"),
    "no end": (b"\x80\x02}", "has no end"),
    "two objects": (b"\x80\x02}}.", "ends with 2 objects"),
    "a list": (b"\x80\x02].", "holds a list"),
    "text in the dict": (state(b"X\x01\x00\x00\x00a"), "holds a str as 'w'"),
    "a dict in the dict": (state(b"}"), "holds a dict as 'w'"),
    "a number as a name": (b"\x80\x02}K\x01" + tensor() + b"s.", "holds a ndarray as '1'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_before_anything_runs(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, message = HOSTILE[case]
    if program == "MARK":
        program = pickle.dumps({"w": Call(os.system, "touch MARK")}, 2)
    path = archive(tmp_path / "a.pt", program)
    with pytest.raises(ValueError, match=message) as error:
        torch_files.read_tensors(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize("case", ["system", "eval", "eval-4"])
def test_the_hostile_files_are_hostile(tmp_path, case, monkeypatch):
    """Python's own reader runs them: the marker that must not be there above comes from them."""
    monkeypatch.chdir(tmp_path)
    program = HOSTILE[case][0]
    if program == "MARK":
        program = pickle.dumps({"w": Call(os.system, "touch MARK")}, 2)
    held = pickle.loads(program)["w"]
    getattr(held, "close", lambda: None)()
    assert (tmp_path / "MARK").exists()


def test_damaged_files_are_refused(tmp_path):
    path = archive(tmp_path / "a.pt", state(tensor()))
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pt (can't be read|is truncated)"):
            torch_files.read_tensors(path)
    with pytest.raises(ValueError, match=r"b\.pt can't be read"):
        torch_files.read_tensors(tmp_path / "b.pt")
    cases = [
        ({"data/0": b"1234"}, zipfile.ZIP_STORED, "has 4 bytes, not those of 6"),
        ({"byteorder": b"big"}, zipfile.ZIP_STORED, "b'big'-endian"),
        ({}, zipfile.ZIP_DEFLATED, "compressed or encrypted"),
    ]
    for members, compression, message in cases:
        archive(path, state(tensor()), members, compression)
        with pytest.raises(ValueError, match=message):
            torch_files.read_tensors(path)
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="save it again"):
        torch_files.read_tensors(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/y", b"")
    with pytest.raises(ValueError, match=r"0 members named \*/data.pkl"):
        torch_files.read_tensors(path)


def test_a_directory_that_lies_about_its_members_is_refused(tmp_path):
    path = archive(tmp_path / "a.pt", state(tensor()))
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")  # the directory's entry of the last member, storage 0
    for field, value, message in [
        (42, 1 << 30, "no header where|past the end|not a zip|truncated"),
        (20, 1 << 30, "past the end|has"),
        (24, 1 << 30, "past the end"),
    ]:
        changed = raw[:]
        changed[at + field : at + field + 4] = struct.pack("<I", value)
        path.write_bytes(changed)
        if field == 20:  # the compressed size, which nothing that is stored needs
            assert torch_files.read_tensors(path)["w"].shape == (2, 3)
            continue
        with pytest.raises(ValueError, match=message):
            torch_files.read_tensors(path)


def test_any_change_of_a_byte_is_read_or_refused(tmp_path, rng):
    """Nothing but ValueError comes out, whatever stands in the pickle."""
    program = state(tensor())
    refused = 0
    for _ in range(400):
        changed = bytearray(program)
        changed[rng.integers(0, len(program))] = rng.integers(0, 256)
        path = archive(tmp_path / "a.pt", bytes(changed))
        try:
            assert set(map(type, torch_files.read_tensors(path).values())) <= {np.ndarray}
        except ValueError:
            refused += 1
    assert 300 < refused < 400


def test_the_cases_are_pickles():
    """Each is cut at no operation: what is refused is not the cutting."""
    for case, (program, _) in HOSTILE.items():
        if program != "MARK" and case != "no end":
            out = io.StringIO()
            for opcode, _, position in pickletools.genops(program):
                out.write(f"{position} {opcode.name}\n")
            assert out.getvalue().endswith("STOP\n"), case
