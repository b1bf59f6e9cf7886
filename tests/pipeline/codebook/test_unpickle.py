"""Codebooks out of pickles, with every kind of file that would run something refused before it can."""

import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans

from pipeline.codebook.unpickle import UnsafePickle, read_cluster_centers

FEATURES = np.random.default_rng(0).standard_normal((300, 6))


@pytest.fixture(scope="module")
def fitted():
    return {
        "mini-batch": MiniBatchKMeans(7, random_state=np.random.RandomState(1), n_init=1).fit(
            FEATURES.astype(np.float32)
        ),
        "lloyd": KMeans(4, random_state=2, n_init=1).fit(FEATURES),
    }


@pytest.mark.parametrize("kind", ["mini-batch", "lloyd"])
@pytest.mark.parametrize("compress", [0, "zlib", "gzip", "bz2", "xz"])
def test_joblib_files_give_the_centres(fitted, kind, compress, tmp_path):
    joblib.dump(fitted[kind], tmp_path / "km.bin", compress=compress)
    centers = read_cluster_centers(tmp_path / "km.bin")
    assert centers.dtype == np.float32
    np.testing.assert_array_equal(centers, fitted[kind].cluster_centers_.astype(np.float32))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_give_the_centres(fitted, protocol, tmp_path):
    for name, model in fitted.items():
        (tmp_path / name).write_bytes(pickle.dumps(model, protocol=protocol))
        np.testing.assert_array_equal(read_cluster_centers(tmp_path / name), model.cluster_centers_.astype(np.float32))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_bare_array_is_taken_as_the_centres(order, tmp_path):
    centers = np.asarray(FEATURES[:5], order=order)
    joblib.dump(centers, tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(pickle.dumps(centers))
    np.testing.assert_array_equal(read_cluster_centers(tmp_path / "a.bin"), centers.astype(np.float32))
    np.testing.assert_array_equal(read_cluster_centers(tmp_path / "b.bin"), centers.astype(np.float32))


class Calls:
    """Pickles as a call: reading it as pickle would runs the call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("hidden_in", ["top", "state", "array"])
def test_a_pickle_that_runs_something_is_refused_and_runs_nothing(fitted, protocol, hidden_in, tmp_path):
    witness = tmp_path / "witness"
    attack = Calls(os.mkdir, str(witness))
    model = KMeans(2)
    model.cluster_centers_ = np.array([[attack]], dtype=object) if hidden_in == "array" else FEATURES[:2]
    model.extra = attack if hidden_in == "state" else None
    path = tmp_path / "bad.bin"
    path.write_bytes(pickle.dumps(attack if hidden_in == "top" else model, protocol=protocol))
    with pytest.raises(UnsafePickle, match="was refused"):
        read_cluster_centers(path)
    if hidden_in != "top":
        joblib.dump(model, path)
        with pytest.raises(UnsafePickle, match="was refused"):
            read_cluster_centers(path)
    assert not witness.exists()


def test_functions_of_harmless_modules_are_not_called_either(tmp_path):
    """numpy can run code too (numpy.load, numpy.f2py ...): names become records, whatever they are."""
    witness = tmp_path / "witness.npy"
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(Calls(np.save, str(witness), 1)))
    with pytest.raises(UnsafePickle, match="not an array"):
        read_cluster_centers(tmp_path / "bad.bin")
    assert not witness.exists()


def test_stack_tricks_are_refused(tmp_path):
    """Hand-made streams: builtins by their Python 2 name, an attribute path, an extension code, a persistent id."""
    streams = [
        b"c__builtin__\neval\n(S'1+1'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x011\x85R.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x01a\x51.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cf2py.os.mkdir\x93\x8c\x01x\x85R.",
        b"",
        b"plain text, no pickle",
    ]
    for stream in streams:
        (tmp_path / "bad.bin").write_bytes(stream)
        with pytest.raises(UnsafePickle):
            read_cluster_centers(tmp_path / "bad.bin")


def test_a_file_cut_off_anywhere_is_refused(fitted, tmp_path):
    joblib.dump(fitted["mini-batch"], tmp_path / "km.bin")
    content = (tmp_path / "km.bin").read_bytes()
    for length in range(0, len(content) - 1, 37):
        (tmp_path / "cut.bin").write_bytes(content[:length])
        with pytest.raises(UnsafePickle):
            read_cluster_centers(tmp_path / "cut.bin")


def test_reading_imports_neither_joblib_nor_sklearn(fitted, tmp_path):
    joblib.dump(fitted["lloyd"], tmp_path / "km.bin")
    code = (
        "import sys; sys.modules['joblib'] = sys.modules['sklearn'] = None\n"
        "from pipeline.codebook.unpickle import read_cluster_centers\n"
        f"print(read_cluster_centers({str(tmp_path / 'km.bin')!r}).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "(4, 6)", done.stderr
