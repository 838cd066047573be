"""Ids: they sort by time, those that one process makes within one millisecond too, and cannot be guessed from another.

The library adds 1 within a millisecond, so that who knows one id knows its neighbours; here 64 random bits are added.
"""

import secrets

from ulid import RandomnessSource, ULIDGenerator

RANDOM_BYTES = 10
# Clear in the first id of a millisecond, so that thousands of leaps fit behind it.
HIGHEST_BIT = 1 << (8 * RANDOM_BYTES - 1)
LONGEST_LEAP = 1 << 64


class LeapingPolicy:
    """A ULID policy; called by one thread at a time."""

    def __init__(self) -> None:
        self._timestamp = -1
        self._number = 0

    def resolve_randomness(self, timestamp: int, randomness_source: RandomnessSource) -> bytes:
        """The random part `[10]` of an id of this millisecond."""
        leaped = self._number + 1 + secrets.randbelow(LONGEST_LEAP)
        if timestamp != self._timestamp or leaped >= 2 * HIGHEST_BIT:
            leaped = int.from_bytes(randomness_source(timestamp)) % HIGHEST_BIT
        self._timestamp, self._number = timestamp, leaped
        return leaped.to_bytes(RANDOM_BYTES)


GENERATOR = ULIDGenerator(policy=LeapingPolicy())


def new_id(kind: str) -> str:
    """`kind`, an underscore and 26 small letters and digits."""
    return f"{kind}_{str(GENERATOR.generate()).lower()}"
