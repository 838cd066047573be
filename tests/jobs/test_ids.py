"""Ids sort by time and cannot be guessed from their neighbours."""

from itertools import pairwise

from ulid import ULID, ULIDGenerator

from jobs.ids import LeapingPolicy, new_id

ONE_MILLISECOND = 1_764_000_000_000


def numbers(count: int) -> list[int]:
    """The random parts of ids that are all made within one millisecond."""
    generator = ULIDGenerator(clock=lambda: ONE_MILLISECOND, policy=LeapingPolicy())
    return [int.from_bytes(generator.generate().bytes[6:]) for _ in range(count)]


def test_ids_of_one_process_sort_by_time() -> None:
    made = [new_id("job") for _ in range(2000)]
    assert made == sorted(set(made))
    assert {len(each) for each in made} == {len("job_") + 26}
    # As any other reader of ULIDs reads them.
    assert ULID.from_str(made[0][4:].upper()).timestamp <= ULID.from_str(made[-1][4:].upper()).timestamp


def test_those_of_one_millisecond_sort_too_and_lie_far_apart() -> None:
    ids = numbers(5000)
    assert ids == sorted(set(ids))
    leaps = [later - earlier for earlier, later in pairwise(ids)]
    # Of 64 random bits each; 40 of them zero in front happens to one in 10^12.
    assert min(leaps) > 2**24
    assert len(set(leaps)) == len(leaps)


def test_two_processes_begin_a_millisecond_anywhere() -> None:
    assert len({numbers(1)[0] for _ in range(100)}) == 100
