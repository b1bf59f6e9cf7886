"""Partitions follow from what files hold: they tile the corpus, keep their bounds, and a file more or less moves few of them."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.source.partitions import Inventory, content_id
from schemas.tables import InventoryItem


def item(uri: str, seconds: float | None, **labels: str) -> InventoryItem:
    probe = hashlib.sha256(uri.encode()).hexdigest()
    return InventoryItem(uri=uri, bytes=1, probe=probe, seconds=seconds, **labels)


def corpus(count: int, least: float, most: float) -> list[InventoryItem]:
    dice = random.Random(count)
    return [item(f"spk{i // 100:05d}/utt{i:07d}.flac", dice.uniform(least, most)) for i in range(count)]


def names(items: list[InventoryItem], minutes: float = 30.0) -> list[bytes]:
    return Inventory.of(items, minutes, 512).names.tolist()


items = st.lists(st.tuples(st.text("abc/", min_size=1, max_size=6), st.none() | st.floats(0, 4000)), max_size=40).map(
    lambda pairs: [item(uri, seconds) for uri, seconds in dict(pairs).items()]
)


@settings(deadline=None)
@given(items, st.floats(0.1, 60), st.integers(1, 10))
def test_partitions_tile_the_inventory_and_keep_their_bounds(
    listed: list[InventoryItem], minutes: float, files: int
) -> None:
    cut = Inventory.of(listed, minutes, files)
    assert [entry for partition in cut for entry in partition.items] == sorted(listed, key=lambda entry: entry.uri)
    for partition in cut:
        assert 1 <= len(partition.items) <= files * 3 / 2 + 1
        assert len(partition.items) == 1 or partition.seconds <= minutes * 90 + 1e-3
    assert len({partition.name for partition in cut}) == len(cut)


@given(items, st.randoms())
def test_partitions_do_not_depend_on_the_order_of_listing(listed: list[InventoryItem], dice: random.Random) -> None:
    shuffled = list(listed)
    dice.shuffle(shuffled)
    assert names(shuffled) == names(listed)


@pytest.mark.parametrize("count, least, most", [(4000, 2, 20), (800, 300, 3600)], ids=["utterances", "chapters"])
def test_a_file_more_or_less_changes_two_partitions_at_most(count: int, least: float, most: float) -> None:
    listed = corpus(count, least, most)
    known = set(names(listed))
    new = item("spk00010/zzz.flac", 12.0)
    for changed in (
        [item("aaa/new.flac", 12.0), *listed],
        [*listed, new],
        [*listed, item("zzz/new.flac", 12.0)],
        listed[1:],
        listed[: count // 2] + listed[count // 2 + 1 :],
    ):
        assert sum(name not in known for name in names(changed)) <= 2


def test_labels_do_not_name_a_partition_and_name_what_reads_them() -> None:
    plain, said = corpus(50, 2, 20), [entry.with_updates(license="CC0") for entry in corpus(50, 2, 20)]
    one, other = Inventory.of(plain, 1, 512), Inventory.of(said, 1, 512)
    assert one.names.tolist() == other.names.tolist()
    assert one.unit_names(("transcript",), everything=False).tolist() == one.names.tolist(), (
        "a label that nobody gave counts as none"
    )
    assert not set(one.unit_names(("license",), everything=False)) & set(
        other.unit_names(("license",), everything=False)
    )


def test_copies_move_nothing() -> None:
    listed = corpus(200, 2, 20)
    copy = listed[100].with_updates(uri="spk00000/zz.flac", duplicate_of=listed[100].uri)
    assert names([*listed, copy], 1) == names(listed, 1)


def test_a_file_is_known_by_the_same_id_as_an_item_and_in_the_table() -> None:
    listed = corpus(5, 2, 20)
    assert Inventory.of(listed, 30, 512).ids(0, 5) == [content_id(entry) for entry in listed]
