"""The numbers in a pickle, without running the pickle: every class it names is replaced by an inert record.

Published k-means codebooks are scikit-learn objects saved with joblib or pickle. Unpickling such a file runs whatever it
says. Here the stack machine of pickle runs with nothing to call: names of scikit-learn, NumPy and joblib become records, any
other name ends the reading, and arrays are rebuilt from their raw bytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schemas.config import ConfigError

HARMLESS_MODULES = ("sklearn.", "numpy.", "numpy", "joblib.numpy_pickle", "scipy.")
DECOMPRESS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x78": zlib.decompress,
    b"\x1f\x8b": gzip.decompress,
    b"BZ": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
}
"""joblib's compressions by their first bytes."""


class UnsafePickle(ConfigError):
    """A pickle that holds more than data, or data that is not understood."""


class Record:
    """What the pickle said an object is: its class, the arguments of its making, and its state."""

    origin = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __new__(cls, *arguments: Any) -> Record:
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Encode(Record):
    """How protocol 2 writes bytes: _codecs.encode(text, "latin1")."""

    def __new__(cls, *arguments: Any) -> Any:
        text, encoding = arguments
        if not isinstance(text, str) or encoding != "latin1":
            raise UnsafePickle("bytes are encoded in a way that pickle itself does not write")
        return text.encode("latin1")


_PYTHON_UNPICKLER: Any = pickle._Unpickler
"""The version written in Python: its opcodes can be overridden."""


class _Reader(_PYTHON_UNPICKLER):  # type: ignore[misc]
    dispatch = dict(_PYTHON_UNPICKLER.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _Encode
        if not any(
            module == allowed or (allowed.endswith(".") and module.startswith(allowed)) for allowed in HARMLESS_MODULES
        ):
            raise UnsafePickle(f"it names {module}.{name}, which no codebook needs")
        return type(name.rpartition(".")[2], (Record,), {"origin": f"{module}.{name}"})

    def load_build(self) -> None:
        """After a joblib array wrapper its bytes follow in the stream, between two opcodes."""
        super().load_build()
        top = self.stack[-1]
        if isinstance(top, Record) and top.origin.endswith("numpy_pickle.NumpyArrayWrapper"):
            self.stack[-1] = _joblib_array(top.state, self._file)

    dispatch[pickle.BUILD[0]] = load_build

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        super().__init__(self._file)


def read_cluster_centers(path: str | Path) -> np.ndarray:
    """`cluster_centers_` of a scikit-learn k-means saved with joblib or pickle: float32 [K, D].

    Raises:
        Refused: the file names anything that is not scikit-learn's, NumPy's or joblib's, or holds no such array.
    """
    content = Path(path).read_bytes()
    try:
        for magic, decompress in DECOMPRESS.items():
            if content.startswith(magic):
                content = decompress(content)
        value = _Reader(content).load()
        centers = _find(value)
        if isinstance(centers, Record):
            centers = _plain_array(centers)
    except UnsafePickle as error:
        raise UnsafePickle(f"{path} was refused: {error}") from error
    except (pickle.UnpicklingError, struct.error, zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise UnsafePickle(f"{path} was refused: {error or 'it is no pickle'}") from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise UnsafePickle(
            f"{path} was refused: it is no scikit-learn k-means that is understood here ({error})"
        ) from error
    if not isinstance(centers, np.ndarray) or centers.ndim != 2:
        raise UnsafePickle(f"{path} holds no cluster_centers_ of two dimensions")
    return np.ascontiguousarray(centers, np.float32)


def _find(value: Any) -> Any:
    """The centres in a k-means record, a dict of its attributes, or the array itself."""
    state = value.state if isinstance(value, Record) and isinstance(value.state, dict) else value
    return state.get("cluster_centers_") if isinstance(state, dict) else state


def _dtype(record: Any) -> np.dtype[Any]:
    """A numeric dtype from how NumPy pickles it: dtype("f4", False, True) with state (3, "<", ...)."""
    if not isinstance(record, Record) or record.origin != "numpy.dtype":
        raise UnsafePickle("an array has a type that is not understood")
    code = str(record.arguments[0])
    order = record.state[1] if record.state else "="
    if code[:1] not in "fiub" or order not in "<>=|":
        raise UnsafePickle(f"an array of type {code!r} holds more than numbers")
    return np.dtype(order.replace("|", "=") + code)


def _joblib_array(state: dict[str, Any], file: io.BytesIO) -> np.ndarray:
    dtype = _dtype(state["dtype"])
    if state.get("numpy_array_alignment_bytes") is not None:
        file.read(file.read(1)[0])
    size = math.prod(int(length) for length in state["shape"]) * dtype.itemsize
    return _from_bytes(file.read(size), dtype, state["shape"], fortran=state["order"] == "F")


def _plain_array(record: Record) -> np.ndarray:
    """An ndarray as pickle protocols 2 to 4 (`_reconstruct`) and 5 (`_frombuffer`) write it."""
    if record.origin.endswith("._reconstruct"):
        _, shape, dtype, fortran, data = record.state
        return _from_bytes(data, _dtype(dtype), shape, fortran=bool(fortran))
    if record.origin.endswith("._frombuffer"):
        data, dtype, shape, order = record.arguments
        return _from_bytes(bytes(data), _dtype(dtype), shape, fortran=order == "F")
    raise UnsafePickle(f"cluster_centers_ is a {record.origin or 'thing'}, not an array")


def _from_bytes(data: Any, dtype: np.dtype[Any], shape: Any, *, fortran: bool) -> np.ndarray:
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        raise UnsafePickle("an array is cut off")
    array: np.ndarray = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array
