"""Cached results: complete or missing, cached by their own key only, limited in size."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from sglp_core.result_cache import UNFINISHED_SECONDS, Cache, CachedResult

KEY = {"model": "a", "seed": 0}
RESULT = CachedResult({"scores": np.arange(6.0).reshape(2, 3), "group/ids": np.array([1, 2])}, {"n": 4})


def only_file(cache: Cache) -> Path:
    (file,) = cache.folder.iterdir()
    return file


def test_a_result_is_found_by_its_key_in_any_order(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.find(KEY) is None
    cache.keep(KEY, RESULT)
    cached = cache.find({"seed": 0, "model": "a"})
    assert cached is not None
    assert cached.facts == cache.find_facts(KEY) == {"n": 4}
    assert cached.arrays.keys() == RESULT.arrays.keys()
    assert all(
        np.array_equal(cached.arrays[n], a) and cached.arrays[n].dtype == a.dtype for n, a in RESULT.arrays.items()
    )
    assert cache.find({**KEY, "seed": 1}) is None


def test_every_damaged_byte_and_every_truncation_counts_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep(KEY, RESULT)
    whole = only_file(cache).read_bytes()
    start = whole.index(RESULT.arrays["scores"].tobytes())
    for position in range(start, start + 48):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        only_file(cache).write_bytes(damaged)
        assert cache.find(KEY) is None
        # Of the facts no byte was damaged, and no array is read for them.
        assert cache.find_facts(KEY) == RESULT.facts
    four, five = (f'"n": {number}'.encode("utf-32-le") for number in (4, 5))
    assert four in whole
    only_file(cache).write_bytes(whole.replace(four, five))
    assert cache.find_facts(KEY) is None
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        only_file(cache).write_bytes(whole[:length])
        assert cache.find(KEY) is None
        assert cache.find_facts(KEY) is None
    cache.keep(KEY, RESULT)
    assert cache.find(KEY) is not None


def test_a_result_under_another_name_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep(KEY, RESULT)
    own = only_file(cache)
    cache.keep({**KEY, "seed": 1}, RESULT)
    (other,) = set(tmp_path.iterdir()) - {own}
    own.replace(other)
    assert cache.find({**KEY, "seed": 1}) is None
    assert cache.find_facts({**KEY, "seed": 1}) is None


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep(KEY, RESULT)
    with np.load(only_file(cache)) as arrays:
        content = dict(arrays)
    np.savez(only_file(cache), **content | {"scores": np.array([{}], dtype=object)})
    assert cache.find(KEY) is None


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    size_bytes = 0
    cache = Cache(tmp_path)
    for number in range(3):
        cache.keep({"n": number}, RESULT)
        size_bytes = max(file.stat().st_size for file in tmp_path.iterdir())
        for file in tmp_path.iterdir():
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 10))
    assert cache.find({"n": 0}) is not None
    Cache(tmp_path, limit_bytes=3 * size_bytes).keep({"n": 3}, RESULT)
    assert [cache.find({"n": number}) is not None for number in range(4)] == [True, False, True, True]


def test_an_unfinished_file_is_deleted_once_its_writer_must_be_dead(tmp_path: Path) -> None:
    (tmp_path / "dead.part").touch()
    (tmp_path / "alive.part").touch()
    past = (tmp_path / "dead.part").stat().st_mtime - UNFINISHED_SECONDS - 1
    os.utime(tmp_path / "dead.part", (past, past))
    Cache(tmp_path).keep(KEY, RESULT)
    assert [file.name for file in tmp_path.glob("*.part")] == ["alive.part"]


def test_a_full_disk_stops_nobody(small_disk: Path) -> None:
    Cache(small_disk).keep(KEY, CachedResult({"large": np.zeros(1 << 17)}, {}))
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("limit_bytes", [1 << 30, 0])
def test_readers_beside_writers_see_complete_results_or_none(tmp_path: Path, limit_bytes: int) -> None:
    cache = Cache(tmp_path, limit_bytes)
    wrong: list[object] = []

    def write() -> None:
        for _ in range(50):
            cache.keep(KEY, RESULT)

    def read() -> None:
        for _ in range(200):
            cached = cache.find(KEY)
            if cached is not None and not np.array_equal(cached.arrays["scores"], RESULT.arrays["scores"]):
                wrong.append(cached)

    threads = [threading.Thread(target=target) for target in (write, write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (cache.find(KEY) is not None) == (limit_bytes > 0)
    assert list(tmp_path.glob("*.part")) == []
