"""Files under one root, a local folder or any fsspec URL: written whole, created exclusively, listed as columns, retried.

A remote storage that cannot answer now is asked again over minutes (schemas/storage/retry.py).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec

from schemas.config import ConfigError
from schemas.files import whole_file
from schemas.storage.retry import asked_again, status_of
from schemas.storage.tree import is_local, local_files, remote_files
from schemas.storage.urls import check_bucket

if TYPE_CHECKING:
    import pyarrow as pa

Result = TypeVar("Result")
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What os.link says on a file system without hard links."""
DELETE_BATCH = 1000
"""What S3 takes in one request."""
CHANGED = ("ETag", "etag", "mtime", "LastModified", "created")
"""What storages call the mark by which a change of a file is noticed, best first."""


def filesystem_of(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URL, and the path as it wants it.

    Raises:
        ConfigError: the URL's protocol is not known or the package that speaks it not installed, or it names no bucket or host.
    """
    check_bucket(url)
    try:
        if "://" not in url:  # fsspec would cut a path at "::", which chains URLs: Foo::Bar would be its neighbour Foo
            filesystem = fsspec.filesystem("file", **options)
            return filesystem, filesystem._strip_protocol(url)
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"{url}: {error}; s3:// wants the extra: pip install -e '.[s3]'") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}", "write a path, or a URL such as s3://bucket/folder") from error
    return filesystem, path


def opened(url: str) -> Any:
    """The file at a path or URL, open for reading bytes."""
    filesystem, path = filesystem_of(url)
    return filesystem.open(path, "rb")


class Files:
    """Files by their path relative to a root."""

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    @cached_property
    def _located(self) -> tuple[Any, str]:
        return filesystem_of(self.root, use_listings_cache=False)

    @property
    def fs(self) -> Any:
        """The fsspec filesystem."""
        return self._located[0]

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine, where a rename is atomic."""
        return is_local(self.fs)

    def path(self, relative: str) -> str:
        """A path under the root as the filesystem wants it."""
        return f"{self._located[1]}/{relative}"

    def check_writable(self) -> None:
        """Raises ConfigError if a file cannot be written and removed under the root."""
        probe = f"control/.probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self.fs.rm_file(self.path(probe))
        except OSError as error:
            raise ConfigError(f"cannot write to {self.root}: {error}; choose another `output`") from error

    # one file ---------------------------------------------------------------------------------------------------------

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file whole: to a temporary name, flushed to disk, then renamed."""
        target = self.path(relative)
        if not self.is_local:
            self.retry(relative, lambda: self.fs.pipe_file(target, data))  # an object appears whole or not at all
            return
        os.replace(self._write_temporary(target, data), target)

    def create_exclusively(self, relative: str, data: bytes) -> bool:
        """Write a file whole unless it exists; False if somebody else came first."""
        target = self.path(relative)
        if not self.is_local:
            return self.retry(relative, lambda: self._create_object(target, data))
        temporary = self._write_temporary(target, data)
        try:
            os.link(temporary, target)  # unlike a rename, a link fails if the name is taken
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return self._rename_if_free(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return True

    @staticmethod
    def _rename_if_free(temporary: str, target: str) -> bool:
        """As by a link, where the file system has none (exFAT; some of FUSE and SMB): one comes first of those whose locks on the
        folder exclude each other, the processes of this machine at least."""
        folder = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if os.path.lexists(target):
                return False
            os.rename(temporary, target)
            return True
        finally:
            os.close(folder)

    def _create_object(self, target: str, data: bytes) -> bool:
        try:
            self.fs.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if status_of(error)[0] == 412:  # MinIO, Ceph and others do not say which condition failed
                return False
            raise
        return True

    @staticmethod
    def _write_temporary(target: str, data: bytes) -> str:
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # on a full disk half a file is in the way of what is tried next
            Path(temporary).unlink(missing_ok=True)
            error.filename = error.filename or target  # a write that fails does not say where
            raise
        return temporary

    def read_bytes(self, relative: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: the storage did not answer.
        """
        # Without this s3fs asks for the size first, to read large objects in pieces; tables and commits are small.
        options = {"max_concurrency": 1} if "s3" in self.fs.protocol else {}
        data: bytes = self.retry(relative, lambda: self.fs.cat_file(self.path(relative), **options))
        return data

    def get_file(self, relative: str, target: Path) -> None:
        """Copy a file to this machine; `target` is there whole or not at all.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: the storage did not answer.
        """
        with whole_file(target) as partial:
            self.retry(relative, lambda: self.fs.get_file(self.path(relative), str(partial)))

    def put_file(self, source: Path, relative: str) -> None:
        """Copy a file of this machine to where others see it whole or not at all.

        Raises:
            StorageError: the storage did not answer.
        """
        if self.is_local:
            with whole_file(self.path(relative)) as partial:
                shutil.copyfile(source, partial)
            return
        self.retry(relative, lambda: self.fs.put_file(str(source), self.path(relative)))

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """The bytes of several files, side by side; None for one that is not there."""

        def read(relative: str) -> bytes | None:
            try:
                return self.read_bytes(relative)
            except FileNotFoundError:
                return None

        if self.is_local or len(paths) < 2:
            return [read(relative) for relative in paths]
        with ThreadPoolExecutor(min(16, len(paths))) as pool:
            return list(pool.map(read, paths))

    def exists(self, relative: str) -> bool:
        """Whether a file is there."""
        if self.is_local:
            return os.path.exists(self.path(relative))
        try:
            self.retry(
                relative, lambda: self.fs.cat_file(self.path(relative), start=0, end=1)
            )  # `exists` would list too
        except FileNotFoundError:
            return False
        except OSError as error:
            if status_of(error)[0] != 416:  # an empty file has no first byte
                raise
        return True

    def remove(self, relative: str) -> None:
        """Remove a file if it is there."""
        self.remove_all([relative])

    def remove_all(self, paths: Sequence[str]) -> None:
        """Remove files, as far as they are there; a thousand per request where the storage can."""
        if self.is_local:
            for relative in paths:
                try:
                    os.unlink(self.path(relative))
                except FileNotFoundError:
                    continue
            return
        for start in range(0, len(paths), DELETE_BATCH):
            batch = [self.path(relative) for relative in paths[start : start + DELETE_BATCH]]
            try:
                self.retry(paths[start], lambda batch=batch: self.fs.rm(batch))  # type: ignore[misc]
            except FileNotFoundError:  # storages that say so do it for the first that is missing: go one by one
                for path in batch:
                    if self.fs.exists(path):
                        self.fs.rm_file(path)

    def move(self, source: str, target: str) -> None:
        """Give a file another name; what was there is replaced. Nothing happens if the source is not there."""
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
            try:
                os.replace(self.path(source), self.path(target))
            except FileNotFoundError:
                return
        elif self.exists(source):
            self.retry(source, lambda: self.fs.cp_file(self.path(source), self.path(target)))
            self.remove(source)

    def set_aside(self, relative: str, why: str) -> str:
        """Move a damaged file out of the way, to damaged/; the sentence that says so."""
        self.move(relative, f"damaged/{relative}")
        return f"{self.root}/{relative} {why}: set aside as damaged/{relative}"

    # many files -------------------------------------------------------------------------------------------------------

    def names(self, folder: str) -> set[str]:
        """The names in a folder; empty if there is none."""
        return {name for name, _ in self._entries(folder, self.path(folder))}

    def listing(self, folder: str) -> pa.Table:
        """The files in a folder with their sizes, as columns `name` and `bytes`: a million of them are 60 MB."""
        import pyarrow as pa  # not above: training needs no tables, and a bare machine with a GPU has none

        columns = pa.schema([("name", pa.string()), ("bytes", pa.int64())])
        path = self.path(folder)
        names: list[str] = []
        sizes: list[int] = []
        pieces: list[pa.Table] = []

        def flush() -> None:
            pieces.append(pa.table([pa.array(names, pa.string()), pa.array(sizes, pa.int64())], schema=columns))
            names.clear()
            sizes.clear()

        for name, size in self._entries(folder, path):
            names.append(name)
            sizes.append(size)
            if len(names) >= 1 << 16:
                flush()
        flush()
        return pa.concat_tables(pieces)

    def _entries(self, folder: str, path: str) -> Iterator[tuple[str, int]]:
        if self.is_local:
            yield from ((name, status.st_size) for name, status in local_files(path, depth=1))
            return
        try:
            found = self.retry(folder, lambda: self.fs.ls(path, detail=True, refresh=True))
        except FileNotFoundError:
            return
        for entry in found:
            if entry["type"] == "file" and not is_folder_mark(str(entry["name"]), path):
                yield str(entry["name"]).rsplit("/", 1)[-1], int(entry["size"] or 0)

    def tree(self, folder: str = "") -> dict[str, Mapping[str, Any]]:
        """Every file below a folder, relative to it, sorted, with what the listing says of it: `size`, and CHANGED.

        On an object store that is one listing, a thousand names per request.
        """
        root = self.path(folder).rstrip("/")
        if self.is_local:
            found = ((name, {"size": at.st_size, "mtime": at.st_mtime}) for name, at in local_files(root))
            return dict(sorted(found))
        listed = sorted(remote_files(self.fs, root), key=lambda pair: pair[0])
        return {path[len(root) + 1 :]: entry for path, entry in listed if not is_folder_mark(path, root)}

    def find(self, folder: str) -> list[str]:
        """Every file below a folder, relative to the root, sorted."""
        return [f"{folder}/{name}".lstrip("/") for name in self.tree(folder)]

    def stamps(self, folder: str = "") -> dict[str, str]:
        """Every file below a folder, relative to it, sorted, with its stamp (see `stamp_of`)."""
        return {name: stamp_of(entry) for name, entry in self.tree(folder).items()}

    def retry(self, relative: str, call: Callable[[], Result]) -> Result:
        """The result of `call`; on a remote storage made again for minutes (see `asked_again`)."""
        return call() if self.is_local else asked_again(f"{self.root}/{relative}", call)


def is_folder_mark(path: str, root: str) -> bool:
    """Whether an object under `root` is no file but stands for a folder, as consoles, Hadoop and Arrow leave them: "runs/a/"."""
    return path.endswith("/") or path == root.rstrip("/")


def stamp_of(entry: Mapping[str, Any]) -> str:
    """What changes when a file does, out of a listing: its size with its etag or its time of change."""
    changed = next((entry[key] for key in CHANGED if entry.get(key)), "")
    return f"{int(entry['size'] or 0)}:{changed}"


def sha256(data: bytes) -> str:
    """The sha256 of bytes, as commits state it."""
    return hashlib.sha256(data).hexdigest()
