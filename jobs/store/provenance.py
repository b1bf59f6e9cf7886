"""Under what a commit came about: when, where, and with which versions of what can change its result."""

from __future__ import annotations

import platform
import socket
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "latent-speech-text",
    "numpy",
    "soundfile",
    "soxr",
    "torch",
    "torchaudio",
    "transformers",
    "ctranslate2",
    "faster-whisper",
    "whisperx",
    "soundswallower",
    "silero-vad",
    "faiss-cpu",
)
"""What computes: a change in one of these may change a result."""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


VERSIONS = _versions()


def provenance(device: str = "") -> dict[str, str]:
    """What a commit says of its making. `device` names a GPU where one was used."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "device": device or processor(),
        "versions": " ".join(f"{name}={number}" for name, number in VERSIONS.items()),
    }


@cache
def processor() -> str:
    """The kind of CPU, as the machine calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next(line for line in file if line.startswith("model name"))
        return line.partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gpu() -> str:
    """The kind of GPU that torch sees, or nothing; torch is not loaded for this."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name())
