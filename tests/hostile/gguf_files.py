"""GGUF files that lie: each case is the bytes of one. The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

import struct

STRING, ARRAY, UINT32, UINT8 = 8, 9, 4, 0
F32, Q8_0 = 0, 8
HUGE = 2**60
MAGIC = b"GGUF"


def text(value: bytes | str, length: int | None = None) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content) if length is None else length) + content


def value(key: str, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


def tensor(name: str, sides: list[int], kind: int = F32, offset: int = 0, dimensions: int | None = None) -> bytes:
    count = len(sides) if dimensions is None else dimensions
    return text(name) + struct.pack("<I", count) + struct.pack(f"<{len(sides)}QIQ", *sides, kind, offset)


def file(
    values: list[bytes],
    tensors: list[bytes],
    content: bytes = bytes(64),
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Header, then `content` at the next multiple of 32."""
    number_of_tensors, number_of_values = counts or (len(tensors), len(values))
    head = MAGIC + struct.pack("<IQQ", version, number_of_tensors, number_of_values) + b"".join(values + tensors)
    return head + bytes(-len(head) % 32) + content


ARCHITECTURE = value("general.architecture", STRING, text("llama"))
SOUND = file([ARCHITECTURE], [tensor("t", [4, 2]), tensor("u", [8], offset=32)])
# Enough bytes that claimed counts are not refused for the size of the file alone.
PADDING = bytes(1 << 16)


def llama(**sizes: int) -> bytes:
    """A Llama of these sizes whose only tensors are the two of `SOUND`."""
    values = [value(f"llama.{name}", UINT32, struct.pack("<I", size)) for name, size in sizes.items()]
    return file([ARCHITECTURE, *values], [tensor("t", [4, 2]), tensor("u", [8], offset=32)])


def nested(depth: int) -> bytes:
    return array(ARRAY, 1) * depth + array(UINT8, 1, b"\0")


GGUF: dict[str, bytes] = {
    "a million layers": llama(block_count=10**6),
    "a Llama of the usual size without weights": llama(block_count=2),
    "a hidden size of 2**20": llama(block_count=2, embedding_length=2**20, feed_forward_length=2**20),
    "nothing but the magic": MAGIC,
    "cut off in the counts": SOUND[:20],
    "version 99": file([ARCHITECTURE], [tensor("t", [4])], version=99),
    "no tensors": file([ARCHITECTURE], []),
    "2**60 tensors": file([ARCHITECTURE], [tensor("t", [4])], counts=(HUGE, 1)),
    "2**60 values": file([ARCHITECTURE], [tensor("t", [4])], counts=(1, HUGE)),
    "more values than there are": file([ARCHITECTURE], [tensor("t", [4])], PADDING, counts=(1, 1000)),
    "key of 2**60 bytes": file([text("k", HUGE) + struct.pack("<I", UINT8) + b"\0"], [tensor("t", [4])], PADDING),
    "key of 2**64 - 1 bytes": file([text("k", 2**64 - 1) + struct.pack("<I", UINT8)], [tensor("t", [4])], PADDING),
    "key that is not UTF-8": file([text(b"\xff") + struct.pack("<I", UINT8) + b"\0"], [tensor("t", [4])]),
    "string of 2**60 bytes": file([value("k", STRING, text("v", HUGE))], [tensor("t", [4])], PADDING),
    "array of 2**60 numbers": file([value("k", ARRAY, array(UINT8, HUGE))], [tensor("t", [4])], PADDING),
    "array of 2**60 strings": file([value("k", ARRAY, array(STRING, HUGE))], [tensor("t", [4])], PADDING),
    "array of 2**60 empty arrays": file([value("k", ARRAY, array(ARRAY, HUGE))], [tensor("t", [4])], PADDING),
    "arrays nested 5,000 deep": file([value("k", ARRAY, nested(5000))], [tensor("t", [4])]),
    "array of a type that is none": file([value("k", ARRAY, array(99, 1, b"\0"))], [tensor("t", [4])]),
    "value of a type that is none": file([value("k", 99, b"\0")], [tensor("t", [4])]),
    "duplicate key": file([ARCHITECTURE, ARCHITECTURE], [tensor("t", [4])]),
    "alignment of 0": file([value("general.alignment", UINT32, bytes(4))], [tensor("t", [4])]),
    "alignment of 3": file([value("general.alignment", UINT32, b"\3\0\0\0")], [tensor("t", [4])]),
    "alignment of 2**31": file([value("general.alignment", UINT32, b"\0\0\0\x80")], [tensor("t", [4])]),
    "alignment that is a string": file([value("general.alignment", STRING, text("32"))], [tensor("t", [4])]),
    "2**32 - 1 dimensions": file([ARCHITECTURE], [tensor("t", [4], dimensions=2**32 - 1)], PADDING),
    "nine dimensions": file([ARCHITECTURE], [tensor("t", [1] * 9)]),
    "sides whose product comes round to 0": file([ARCHITECTURE], [tensor("t", [2**32, 2**32])]),
    "sides whose product comes round to 4": file([ARCHITECTURE], [tensor("t", [2**32 + 2, 2**31 - 1, 2])]),
    "side of 2**64 - 1": file([ARCHITECTURE], [tensor("t", [2**64 - 1])]),
    "tensor of a type that is none": file([ARCHITECTURE], [tensor("t", [4], kind=999)]),
    "tensor of half a block": file([ARCHITECTURE], [tensor("t", [31], kind=Q8_0)]),
    "tensor beyond the end": file([ARCHITECTURE], [tensor("t", [4], offset=1 << 20)]),
    "offset of 2**64 - 32": file([ARCHITECTURE], [tensor("t", [4], offset=2**64 - 32)]),
    "offset that is not aligned": file([ARCHITECTURE], [tensor("t", [4], offset=4)]),
    "overlapping tensors": file([ARCHITECTURE], [tensor("t", [16]), tensor("u", [8], offset=32)]),
    "duplicate tensor": file([ARCHITECTURE], [tensor("t", [4]), tensor("t", [4], offset=32)]),
    "tensor of a name of 2**60 bytes": file(
        [ARCHITECTURE], [text("t", HUGE) + struct.pack("<IQIQ", 1, 4, F32, 0)], PADDING
    ),
}
