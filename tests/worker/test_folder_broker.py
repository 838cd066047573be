"""The embedded broker delivers every message once and never shows one that is not whole."""

import threading
import time
from pathlib import Path

from kombu import Connection
from kombu.transport.virtual import Empty

from worker import folder_broker

QUEUE = "sglp.default"


def connect(folder: Path) -> Connection:
    return Connection(
        f"filesystem://{folder}",
        transport="worker.folder_broker:Transport",
        transport_options=folder_broker.options(folder),
    )


def test_messages_come_out_in_order_and_leave_no_file(tmp_path: Path) -> None:
    with connect(tmp_path) as connection, connection.SimpleQueue(QUEUE, no_ack=True) as queue:
        for number in range(5):
            queue.put({"number": number})
        assert [queue.get(timeout=5).payload["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert list((tmp_path / "messages").iterdir()) == []


def test_a_reader_that_never_rests_sees_only_whole_messages(tmp_path: Path) -> None:
    count = 300
    received: list[int] = []
    failures: list[BaseException] = []

    def read() -> None:
        with connect(tmp_path) as connection:
            channel = connection.default_channel
            give_up = time.monotonic() + 30
            while len(received) < count and time.monotonic() < give_up:
                try:
                    received.append(channel._get(QUEUE)["number"])
                except Empty:
                    continue
                except Exception as error:
                    failures.append(error)
                    return

    reader = threading.Thread(target=read)
    reader.start()
    with connect(tmp_path) as connection:
        for number in range(count):
            connection.default_channel._put(QUEUE, {"number": number})
    reader.join()
    assert failures == []
    assert received == list(range(count))
