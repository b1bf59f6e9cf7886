"""Reading shards: by number, equal to what webdataset reads; damage is a sentence with the file's name, never a skip."""

from __future__ import annotations

import errno
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from model.data import shards as shards_module
from model.data.shards import ShardCache, ShardError, ShardSet
from model.data.sources import DataConfig, DocumentStream
from schemas.config import ConfigError
from schemas.errors import ExitCode
from schemas.reading.shard_reader import read_index
from schemas.shards import ShardEntry
from schemas.storage import retry
from tests.synthetic_shards import write_speech_shards, write_text_shards


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_speech_shards(tmp_path / "speech", [3, 0, 4])


def every_sample(shards: ShardSet) -> list[tuple[str, bytes, bytes, bytes]]:
    return [
        (sample.meta.key, sample.units.tobytes(), sample.words.tobytes(), sample.patch.tobytes())
        for shard, count in enumerate(shards.counts)
        for sample in [shards.read(shard, number) for number in range(count)]
    ]


def test_samples_are_those_that_webdataset_reads(index: Path) -> None:
    import webdataset as wds

    urls = [str(path) for path in sorted(index.parent.glob("*.tar"))]
    theirs = [
        (s["__key__"], s["units.npy"].tobytes(), s["words.npy"].tobytes(), s["patch.npy"].tobytes())
        for s in wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    ]
    assert every_sample(ShardSet(str(index))) == theirs
    assert len(theirs) == 7


def test_any_order_of_reading_gives_the_same_samples(index: Path) -> None:
    """Random access, with fewer shards held open than there are."""
    shards, few = ShardSet(str(index)), ShardSet(str(index), keep_open=1)
    places = [(2, 3), (0, 0), (2, 0), (0, 2), (2, 3)]
    assert [few.read(*place).meta for place in places] == [shards.read(*place).meta for place in places]
    few.close()
    assert few.read(0, 1).meta == shards.read(0, 1).meta


def test_text_only_samples_have_no_units(tmp_path: Path) -> None:
    sample = ShardSet(str(write_text_shards(tmp_path / "text", [2]))).read(0, 1)
    assert len(sample.units) == len(sample.words) == 0
    assert sample.meta.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage,message",
    [(truncate, "it is truncated"), (flip, "is damaged: its sha256 is"), (Path.unlink, "is missing, and the index")],
)
def test_damage_is_named(index: Path, damage: Callable[[Path], object], message: str) -> None:
    victim = index.parent / "shard-00002.tar"
    damage(victim)
    shards = ShardSet(str(index))
    shards.read(0, 0)
    with pytest.raises(ShardError, match=message) as caught:
        shards.read(2, 0)
    assert str(victim) in str(caught.value)


def test_an_index_that_lies_is_found_out(index: Path) -> None:
    """Hashes that fit but counts or contents that do not: the sample or the shard is named."""
    document = json.loads(index.read_text())
    document["shards"][0]["samples"] = 5
    index.write_text(json.dumps(document))
    with pytest.raises(ShardError, match=r"shard-00000.tar holds 3 samples and its index says 5"):
        ShardSet(str(index)).read(0, 0)
    document["format"] = 99
    index.write_text(json.dumps(document))
    with pytest.raises(ShardError, match="has format 99; this code reads 1"):
        ShardSet(str(index))
    index.write_text("{}")
    with pytest.raises(ShardError, match="cannot read the shard index"):
        ShardSet(str(index))
    with pytest.raises(ShardError, match=r"name the index of a shard set, such as .*index\.json"):
        ShardSet(str(index.parent))


def test_an_index_within_a_file_is_a_wrong_path_everywhere(tmp_path: Path) -> None:
    """Exit code 2 of whatever reads shards, not 3: no storage has failed."""
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    path = str(tmp_path / "x.wav" / "index.json")
    with pytest.raises(ShardError) as training:
        ShardSet(path)
    with pytest.raises(ConfigError, match=r"x\.wav/index\.json"):
        read_index(path)
    assert training.value.code == ExitCode.CONFIGURATION


def rewrite(index: Path, shard: int, change: Callable[[str, bytes], bytes]) -> None:
    """Change members of a shard and make the index agree, as a faulty writer would."""
    import io

    from schemas.cards import hash_file

    path = index.parent / f"shard-{shard:05d}.tar"
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            changed = change(name, content)
            info = tarfile.TarInfo(name)
            info.size = len(changed)
            tar.addfile(info, io.BytesIO(changed))
    document = json.loads(index.read_text())
    document["shards"][shard].update(sha256=hash_file(path), bytes=path.stat().st_size)
    index.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "member,content,message",
    [
        ("units.npy", np.arange(3, dtype=np.int64), "units.npy is int64, expected uint16"),
        ("units.npy", np.arange(3, dtype=np.uint16), "3 units, num_frames says"),
        ("patch.npy", np.asarray([0, 1, 1], dtype=np.int32), "patch bounds do not tile the frames"),
        ("words.npy", np.zeros((0, 3), dtype=np.int32), "word spans in the text, 0 rows of words.npy"),
        ("units.npy", np.asarray([{"a": 1}], dtype=object), "Object arrays cannot be loaded when allow_pickle=False"),
    ],
)  # fmt: skip
def test_a_sample_that_breaks_the_format_is_named(index: Path, member: str, content: np.ndarray, message: str) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=True)
    rewrite(index, 0, lambda name, old: buffer.getvalue() if name.endswith(member) else old)
    with pytest.raises(ShardError, match=message) as caught:
        ShardSet(str(index)).read(0, 1)
    assert "sample 'sample-000001'" in str(caught.value)


class TestRemote:
    """Shards behind an fsspec URL, through a cache of bounded size."""

    @pytest.fixture
    def url(self, index: Path) -> str:
        store = fsspec.filesystem("memory")
        for path in index.parent.iterdir():
            store.pipe(f"/bucket/{path.name}", path.read_bytes())
        return "memory://bucket/index.json"

    def test_remote_samples_equal_local_ones(self, index: Path, url: str, tmp_path: Path) -> None:
        cache = ShardCache(tmp_path / "cache", 10_000_000)
        assert every_sample(ShardSet(url, cache)) == every_sample(ShardSet(str(index)))

    def test_the_cache_keeps_to_its_size_and_fetches_again(self, index: Path, url: str, tmp_path: Path) -> None:
        size = max(entry.bytes for entry in ShardSet(str(index)).index.shards)
        cache = ShardCache(tmp_path / "cache", size + 1)
        shards = ShardSet(url, cache, keep_open=1)
        for _ in range(3):
            for shard in (0, 2):
                shards.read(shard, 0)
                assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= size + 1

    def test_a_damaged_copy_never_enters_the_cache(self, url: str, tmp_path: Path) -> None:
        store = fsspec.filesystem("memory")
        content = bytearray(store.cat("/bucket/shard-00000.tar"))
        content[600] ^= 255
        store.pipe("/bucket/shard-00000.tar", bytes(content))
        with pytest.raises(ShardError, match=r"memory://bucket/shard-00000.tar is damaged"):
            ShardSet(url, ShardCache(tmp_path / "cache", 10_000_000)).read(0, 0)
        assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]

    def test_what_is_not_there_is_named(self, url: str, tmp_path: Path) -> None:
        fsspec.filesystem("memory").rm("/bucket/shard-00002.tar")
        with pytest.raises(ShardError, match=r"cannot fetch the shard memory://bucket/shard-00002.tar"):
            ShardSet(url, ShardCache(tmp_path / "cache", 10_000_000)).read(2, 0)
        with pytest.raises(ShardError, match=r"is remote: set data.cache_dir"):
            ShardSet(url).read(0, 0)

    def test_a_missing_source_entry_needs_no_network(self, tmp_path: Path) -> None:
        entry = ShardEntry(path="a.tar", sha256="0" * 64, bytes=1, samples=1, frames=0, words=0, patches=0, seconds=0.0)
        (tmp_path / f"{entry.sha256}.tar").write_bytes(b"x")
        assert ShardCache(tmp_path, 10).fetch("memory://gone/a.tar", entry).read_bytes() == b"x"

    def test_a_storage_that_fails_for_a_while_is_asked_again(
        self, index: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Remote or shared: three failures cost pauses; what goes on for minutes ends the command, which may be run again."""
        failures = [0]
        honest = MemoryFileSystem._open, shards_module.check_file

        def fail() -> None:
            if failures[0] > 0:
                failures[0] -= 1
                raise OSError(errno.EIO, "as told")

        def opened(self: MemoryFileSystem, *given: Any, **options: Any) -> Any:
            fail()
            return honest[0](self, *given, **options)

        def checked(*given: Any, **options: Any) -> None:
            fail()
            honest[1](*given, **options)

        monkeypatch.setattr(MemoryFileSystem, "_open", opened)
        monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
        remote = ShardSet(url, ShardCache(tmp_path / "cache", 10_000_000))
        monkeypatch.setattr(shards_module, "check_file", checked)
        for place, shards in {"remote": remote, "local": ShardSet(str(index))}.items():
            failures[0] = 3
            assert shards.read(0, 0).meta.num_frames > 0, place
            assert failures[0] == 0
            failures[0] = 10**9
            monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
            with pytest.raises(
                ShardError, match=r"cannot .* the shard .*shard-00002.tar.* run the same command"
            ) as told:
                shards.read(2, 0)
            assert told.value.code == ExitCode.TRY_AGAIN
            monkeypatch.setattr(retry, "RETRY_SECONDS", 240.0)

    def test_a_source_fetches_the_shards_of_its_next_group(self, url: str, tmp_path: Path) -> None:
        """In the background; not where the cache could not hold them."""
        config = DataConfig.model_validate(
            {
                "sources": [{"kind": "speech", "data": url, "weight": 1.0}],
                "tokenizer": {"path": "none"},
                "shuffle_shards": 1,
            }
        )
        for room, copies in ((10_000_000, 2), (10, 1)):
            folder = tmp_path / str(room)
            shards = ShardSet(url, ShardCache(folder, room))
            DocumentStream(config.sources[0], "speech", shards, config, seed=1, split="train").sample(0)
            wait_until(lambda folder=folder, copies=copies: len(list(folder.glob("*.tar"))) >= copies)
            assert len(list(folder.glob("*.tar"))) == copies
