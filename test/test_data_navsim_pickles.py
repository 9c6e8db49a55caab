"""Pickles are programs; what a log may do and what it may not."""

import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim import pickles
from spanvla_ros.data.navsim.pickles import parse_pickle, read_pickle

VALUE = [
    {
        "numbers": np.arange(6.0).reshape(2, 3),
        "names": np.array(["car", "pedestrian"]),
        "objects": np.array(["x", None], object),
        "turned": np.asfortranarray(np.eye(3)),
        "none": np.zeros((0, 7), np.float32),
        "big endian": np.arange(3, dtype=">i4"),
        "scalar": np.float32(2.5),
        "plain": (1, 2.5, True, None, b"x", "y", 10**30),
    }
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_are_read(protocol):
    found = parse_pickle(pickle.dumps(VALUE, protocol), "log")[0]
    for name, value in VALUE[0].items():
        assert np.array_equal(found[name], value) if isinstance(value, np.ndarray) else found[name] == value, name


def test_names_of_old_and_new_numpy_are_the_same():
    data = pickle.dumps(VALUE, 2)
    assert b"numpy._core" in data or b"numpy.core" in data
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        other = data.replace(b"numpy._core.multiarray", name).replace(b"numpy.core.multiarray", name)
        assert np.array_equal(parse_pickle(other, "log")[0]["numbers"], VALUE[0]["numbers"])


class Runs:
    """What pickle itself would run on loading."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments



@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.system, eval, exec, __import__, getattr, open, np.load, np.fromfile, pickle.loads, collections.OrderedDict])
def test_calls_are_refused_before_anything_runs(tmp_path, protocol, call):
    trap = tmp_path / "ran"
    argument = f"touch {trap}" if call is os.system else f"open({str(trap)!r}, 'w')" if call in (eval, exec) else str(trap)
    path = tmp_path / "log.pkl"
    path.write_bytes(pickle.dumps([{"token": Runs(call, argument)}], protocol))
    with pytest.raises(DataError, match="refused, the pickle names"):
        read_pickle(path)
    assert not trap.exists()


def handmade(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


GLOBAL = b"\x93"  # STACK_GLOBAL
DTYPE = text("numpy") + text("dtype") + GLOBAL
ARRAY = text("numpy.core.multiarray") + text("_reconstruct") + GLOBAL


def array_with(state: bytes) -> bytes:
    """An array that is given this state."""
    return handmade(ARRAY, b"(", text("numpy"), text("ndarray"), GLOBAL, b"K\x00\x85", b"C\x01b", b"tR", state, b"b")


def dtype_of(kind: str) -> bytes:
    return DTYPE + text(kind) + b"\x89\x88\x87R"


@pytest.mark.parametrize(
    "data, message",
    [
        (handmade(text("builtins"), text("eval"), GLOBAL, text("1+1"), b"\x85R"), "names builtins.eval"),
        (b"cos\nsystem\n(S'true'\ntR.", "names os.system"),
        # a dotted name that leads from an allowed module to another
        (handmade(text("numpy"), text("core.os.system"), GLOBAL), "names numpy.core.os.system"),
        (handmade(text("numpy.core.multiarray"), text("os"), GLOBAL), "names numpy.core.multiarray.os"),
        (b"(S'true'\nios\nsystem\n.", "uses INST"),
        (b"\x80\x02(cos\nsystem\nS'true'\no.", "uses OBJ|names os.system"),
        (b"\x80\x02cos\nsystem\n)\x81.", "uses NEWOBJ|names os.system"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"Pfile:///etc/passwd\n.", "uses PERSID"),
        (handmade(text("x"), b"Q"), "uses BINPERSID"),
        (handmade(b"\x97"), "uses NEXT_BUFFER"),
        # memory: a memo number that makes the unpickler reserve gigabytes
        (b"\x80\x02]r\xff\xff\xff\x7f.", "puts memo 2147483647"),
        (b"\x80\x02]p-1\n.", "memo|no pickle"),
        # a length that the file doesn't have
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "is no pickle"),
        (b"\x80\x04]", "is no pickle"),
        (b"", "is no pickle"),
        (b"\x89HDF no pickle", "is no pickle|of plain values|refused"),
        # a state for a name changes it for all that follows; a state for a list makes no sense
        (handmade(DTYPE, b"}", text("x"), b"K\x01sb"), "a name can't be given a state"),
        (handmade(DTYPE, b"N}", text("_make"), b"Ns\x86b"), "a name can't be given a state"),
        (handmade(b"]}b"), "no pickle of plain values"),
        # arrays that are not what they say
        (array_with(b"(K\x01K\x04\x85" + dtype_of("f8") + b"\x89C\x04abcdt"), "with other content"),
        (array_with(b"(K\x01J\xff\xff\xff\x7f\x85" + dtype_of("f8") + b"\x89C\x04abcdt"), "array of shape"),
        (array_with(b"(K\x01K\x01\x85" + dtype_of("O8") + b"\x89C\x08abcdefght"), "with other content"),
        (array_with(b"(K\x01K\x01\x85" + text("f8") + b"\x89C\x08abcdefght"), "array with dtype"),
        (handmade(dtype_of("V8")), "array of type 'V8'"),
        (handmade(DTYPE, text("f8, O"), b"\x85R"), "array of type 'f8, O'"),
        (handmade(text("_codecs"), text("encode"), GLOBAL, text("x"), text("rot13"), b"\x86R"), "encoding 'rot13'"),
    ],
)
def test_hostile_and_broken_pickles_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        parse_pickle(data, "log")


def test_nested_laughs_cost_nothing():
    value = "ha"
    for _ in range(40):
        value = [value] * 10
    assert len(parse_pickle(pickle.dumps(value), "log")) == 10


def test_name_can_be_called_but_not_changed():
    """What one pickle is given, the next one gets unchanged."""
    before = dict(pickles._STAND_INS)
    for data in (handmade(DTYPE, b"N}", text("_make"), b"Ns\x86b"), handmade(ARRAY, b"}", text("__call__"), b"Nsb")):
        with pytest.raises(DataError):
            parse_pickle(data, "log")
    assert pickles._STAND_INS == before
    assert np.array_equal(parse_pickle(pickle.dumps(np.arange(3)), "log"), np.arange(3))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing.pkl can't be read: No such file"):
        read_pickle(tmp_path / "nothing.pkl")


def test_pickle_would_have_run_it(tmp_path):
    """The traps above are real: pickle alone springs them."""
    trap = tmp_path / "ran"
    pickle.Unpickler(io.BytesIO(pickle.dumps(Runs(eval, f"open({str(trap)!r}, 'w')")))).load()
    assert trap.exists()
