"""Published centroids in each of their formats become one folder with the same numbers."""

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans

from jobs.import_centroids import main
from pipeline.codebook.folder import load_centroids
from pipeline.codebook.published import read_published
from schemas.cards import hash_file
from schemas.config import ConfigError

CENTROIDS = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)


def published(form, path):
    import faiss

    if form == "npy":
        np.save(path.with_suffix(".npy"), CENTROIDS)
        path.with_suffix(".npy").rename(path)
    elif form == "faiss":
        index = faiss.IndexFlatL2(5)
        index.add(CENTROIDS)
        faiss.write_index(index, str(path))
    else:
        model = KMeans(6)
        model.cluster_centers_ = CENTROIDS.astype(np.float64)
        joblib.dump(model, path)
    return path


@pytest.mark.parametrize("form", ["npy", "faiss", "scikit-learn"])
def test_the_folder_holds_the_published_numbers(form, tmp_path, capsys):
    """All three are called .bin: the content says what they are."""
    source = published(form, tmp_path / "km.bin")
    arguments = [str(source), str(tmp_path / "km"), "--license", "CC-BY-NC 4.0", "--sha256", hash_file(source)]
    assert main(arguments) == 0
    centroids, card = load_centroids(tmp_path / "km")
    np.testing.assert_array_equal(centroids, CENTROIDS)
    assert card.notes == {"imported_from": form, "source_sha256": hash_file(source), "license": "CC-BY-NC 4.0"}
    assert "6 units of 5 dimensions" in capsys.readouterr().out


def test_what_cannot_be_centroids_is_a_sentence(tmp_path, capsys):
    import faiss

    source = published("npy", tmp_path / "km.npy")
    assert main([str(source), str(tmp_path / "km"), "--sha256", "00"]) == 2
    assert "another or a damaged file" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(tmp_path / "km")]) == 2
    index = faiss.index_factory(5, "IVF2,Flat")
    index.train(CENTROIDS)
    faiss.write_index(index, str(tmp_path / "ivf.bin"))
    with pytest.raises(ConfigError, match="flat one"):
        read_published(tmp_path / "ivf.bin")
    np.save(tmp_path / "ids.npy", np.arange(5))
    with pytest.raises(ConfigError, match=r"must hold floats \[K, D\]"):
        read_published(tmp_path / "ids.npy")
    np.save(tmp_path / "nan.npy", np.full((3, 2), np.nan, np.float32))
    assert main([str(tmp_path / "nan.npy"), str(tmp_path / "km")]) == 2
    assert "NaN" in capsys.readouterr().err
    assert not (tmp_path / "km").exists()


def test_a_bucket_gets_them_too(tmp_path, monkeypatch):
    """And nothing is written here under the name of its scheme."""
    monkeypatch.chdir(tmp_path)
    assert main([str(published("npy", tmp_path / "km.bin")), "memory://codebooks/km"]) == 0
    assert np.array_equal(load_centroids("memory://codebooks/km")[0], CENTROIDS)
    assert [path.name for path in tmp_path.iterdir()] == ["km.bin"]
