"""New commits of a running stage, as they appear in the store: what the driver shows does not wait for whole partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from jobs.store.commit_folders import folder_of
from schemas.commit import Commit
from schemas.storage.files import Files


class CommitWatch:
    """Gives each commit once, whether the driver heard of it from a worker or it was found in the store.

    Remembers only names of files that are still there: the driver gathers files into parts, and a run may have millions.
    """

    def __init__(self, store: Files, fingerprints: Mapping[str, str]) -> None:
        """`fingerprints`: stage -> its fingerprint. What lies there now is not new."""
        self._store = store
        self._folders = {stage: folder_of(stage, fingerprint) for stage, fingerprint in fingerprints.items()}
        self._listed = {stage: self._names(stage) for stage in self._folders}
        self._known = {stage: set(names) for stage, names in self._listed.items()}

    def _names(self, stage: str) -> set[str]:
        return {name for name in self._store.names(self._folders[stage]) if name.endswith(".json")}

    def heard(self, commit: Commit) -> bool:
        """Whether this commit, which a worker reported, is new here."""
        name, known = f"{commit.partition}.json", self._known[commit.stage]
        is_new = name not in known
        known.add(name)
        return is_new

    def poll(self) -> Iterator[Commit]:
        """The commits that are new in the store; one listing per stage."""
        for stage, known in self._known.items():
            before, now = self._listed[stage], self._names(stage)
            known -= before - now  # gathered since; a name that no listing has shown yet may still be on its way
            new = sorted(now - known)
            known |= now
            self._listed[stage] = now
            for data in self._store.read_many([f"{self._folders[stage]}/{name}" for name in new]):
                try:
                    if data is not None:
                        yield Commit.model_validate_json(data)
                except ValidationError:
                    continue  # a file of no commit is named by the next run
