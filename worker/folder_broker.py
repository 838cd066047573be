"""The broker of the embedded mode: kombu's folder of message files, with a message shown only once it is whole.

See docs/decisions/embedded-broker.md.
"""

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps

POLLING_SECONDS = 0.2


def options(folder: Path) -> dict[str, Any]:
    """Transport options that keep everything in `folder`, and the folders they name."""
    places = {name: folder / name for name in ("messages", "control")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(places["messages"]),
        "data_folder_out": str(places["messages"]),
        "control_folder": str(places["control"]),
        "polling_interval": POLLING_SECONDS,
    }


class Channel(filesystem.Channel):
    """Kombu creates the file and then fills it: a reader in between gets an empty message, which ends the worker."""

    def _put(self, queue: str, payload: Any, **_kwargs: Any) -> None:
        name = f"{time.time_ns()}_{uuid.uuid4()}.{queue}.msg"
        unfinished = Path(self.data_folder_out, f".{name}")
        unfinished.write_text(dumps(payload))
        unfinished.rename(Path(self.data_folder_out, name))


class Transport(filesystem.Transport):
    Channel = Channel
