"""The broker of the embedded mode: kombu's folder of message files, where only complete messages are visible.

See docs/decisions/embedded-broker.md.
"""

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps

POLLING_SECONDS = 0.2


def options(folder: Path) -> dict[str, str | float]:
    """Transport options that keep all messages in `folder`; creates its subfolders."""
    messages, control = folder / "messages", folder / "control"
    for each in (messages, control):
        each.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        "polling_interval": POLLING_SECONDS,
    }


class Channel(filesystem.Channel):
    """Kombu creates the file before it writes the message; a reader in between gets an empty message and crashes."""

    # Kombu's base classes call the second parameter by different names.
    def _put(self, queue: str, payload: Any, **_kwargs: Any) -> None:  # type: ignore[override]
        name = f"{time.time_ns()}_{uuid.uuid4()}.{queue}.msg"
        unfinished = Path(self.data_folder_out, f".{name}")
        unfinished.write_text(dumps(payload))
        unfinished.rename(Path(self.data_folder_out, name))


class Transport(filesystem.Transport):
    Channel = Channel
