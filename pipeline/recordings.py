"""Stage `recordings`: inventory items -> decoded, checked recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from pipeline.containers.base import AudioError
from pipeline.source.base import AudioReader
from pipeline.source.decode import AudioInfo, scan_file
from pipeline.source.folder import LEFT_ALONE, SourceFolder, hash_stream
from pipeline.source.probe import is_as_listed
from pipeline.stage import StageResult, WithoutModel, refuse, rows_of
from schemas.arrow import Row
from schemas.errors import StorageError
from schemas.given import load_given
from schemas.spec import RecordingsSpec, Source
from schemas.tables import InventoryItem, Recording, Reject, RejectCode, recording_id


class RecordingsStage(WithoutModel):
    """Hashes and decodes every file to its end, so that later stages only ever see audio that can be read.

    Rejects: missing, empty, duplicate, unsupported, decode_error, non_finite, too_short, too_long.
    """

    name = Recording.TABLE
    version = 4
    inputs: tuple[str, ...] = (InventoryItem.TABLE,)

    def __init__(self, spec: RecordingsSpec, source: Source) -> None:
        self._spec = spec
        self._source = source

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """`audio` is not used: a file becomes readable by recording only after this stage."""
        folder = SourceFolder(self._source.uri)
        rows: list[Recording] = []
        rejects: list[Reject] = []
        for item in rows_of(tables, InventoryItem):
            try:
                rows.append(self._record(folder, item))
                # Rows of the corpus that speak of this recording and cannot be used; the recording goes on.
                for problem in load_given(item.given).problems:
                    detail = f"{problem.place}: {problem.detail}"
                    rejects.append(
                        refuse(item, self.name, "bad_row", detail, part=problem.place, seconds=problem.seconds)
                    )
            except AudioError as error:
                rejects.append(refuse(item, self.name, error.code, f"{item.uri}: {error.detail}"))
        return StageResult(rows=rows, rejects=rejects)

    def _record(self, folder: SourceFolder, item: InventoryItem) -> Recording:
        if item.refused is not None:
            raise AudioError(item.refused, item.detail or "")
        if item.duplicate_of is not None:
            but = f", but {item.detail}" if item.detail else ""
            raise AudioError("duplicate", f"its bytes equal those of {item.duplicate_of}{but}")
        with _opened(folder, item) as file:
            digest = hash_stream(file)
            if not is_as_listed(item, file, digest):
                raise StorageError(f"{item.uri} has changed since it was listed: {LEFT_ALONE}")
            num_samples_16k, info = scan_file(file, self._spec.max_seconds)
        self._check_length(info.num_samples / info.sample_rate)
        return self._row(item, digest, info, num_samples_16k)

    def _check_length(self, seconds: float) -> None:
        least, most = self._spec.min_seconds, self._spec.max_seconds
        code: RejectCode
        if seconds < least:
            code, bound = "too_short", f"recordings.min_seconds is {least:g}"
        elif seconds > most:
            code, bound = "too_long", f"recordings.max_seconds is {most:g}"
        else:
            return
        raise AudioError(code, f"it lasts {seconds:.3f} s and {bound}")

    def _row(self, item: InventoryItem, digest: str, info: AudioInfo, num_samples_16k: int) -> Recording:
        return Recording(
            recording_id=recording_id(digest),
            uri=item.uri,
            source=self._source.name,
            bytes=item.bytes,
            sha256=digest,
            codec=info.codec,
            sample_rate=info.sample_rate,
            channels=info.channels,
            num_samples=info.num_samples,
            num_samples_16k=num_samples_16k,
            language_hint=item.language_hint,
            license=item.license,
            transcript=item.transcript,
            extra=item.extra,
            member=item.member,
            given=item.given,
        )


def _opened(folder: SourceFolder, item: InventoryItem) -> BinaryIO:
    """The item's bytes.

    Raises:
        AudioError: it may not be read. Other errors of the storage pass: the row may be tried again.
    """
    try:
        return folder.open_listed(item.uri, item.member)
    except PermissionError as error:
        raise AudioError("missing", f"it cannot be opened any more: {error.strerror or error}") from error
