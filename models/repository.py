"""The model repository: ``<root>/<name>/<version>/``, versions immutable, publishing atomic.

Lists and resolves names and versions, verifies digests and graphs before a model runs, and
publishes by renaming a temporary directory that was built beside the target. Knows the files;
``artifact`` knows the content of ``model.json``, ``service`` how a model runs.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from models.artifact import ArtifactError, ModelArtifact
from models.comparable import why_incomparable
from models.files import MOST_BYTES, hash_file, locked, read_file, sync, write_atomically
from models.onnx_data import DataFile
from models.onnx_file import OnnxFileError, check_graph
from models.promotion import Promotion, read_promotion
from models.rollout import NO_ROLLOUT, Rollout, read_rollout

Fingerprint = tuple[tuple[str, int, int, int], ...]

MODEL_JSON = "model.json"
_SETTINGS_JSON = "repository.json"
_LOCK = ".lock"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Far above any: a million labels of 40 letters are less.
_MOST_JSON_BYTES = 64 << 20
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """``repository.json``: what is served if a request names no model or no version.

    Attributes:
        default_model: Name of the default model, None to leave it open.
        default_versions: Name to pinned version; a model that is not named serves its newest.
        rollouts: Name to the candidates that get a share of its requests.
        records: Name to the share of its requests that is recorded, 0 to 1; others have the
            service's own.
        promotions: Name to its last promotion, which may be over.
    """

    default_model: str | None = None
    default_versions: dict[str, int] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    records: dict[str, float] = field(default_factory=dict)
    promotions: dict[str, Promotion] = field(default_factory=dict)


class ModelRepository:
    """A folder of models.

    Args:
        root: The folder; its sub-folders with integer versions are the models.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Return the names of all models that have at least one version, sorted."""
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root}: expected a folder of <name>/<version>/, got none")
        return sorted(
            entry.name
            for entry in self.root.iterdir()
            if entry.is_dir() and _NAME.fullmatch(entry.name) and self.versions(entry.name)
        )

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, ascending; empty if the model does not exist."""
        folder = self.root / name
        if not _NAME.fullmatch(name) or not folder.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in folder.iterdir()
            if entry.is_dir() and _VERSION.fullmatch(entry.name)
        )

    def path(self, name: str, version: int) -> Path:
        """Return the directory of a version, whether or not it exists."""
        return self.root / name / str(version)

    def plan_path(self, name: str, version: int) -> Path:
        """Return the path of a version's plan (``tuned``), whether or not it exists."""
        return self.root / name / f"plan-{version}.json"

    def measured_path(self, name: str, version: int) -> Path:
        """Return the path of what was measured about a version, whether or not it exists."""
        return self.root / name / f"measured-{version}.json"

    def resolve(self, reference: str | None = None) -> tuple[str, int]:
        """Turn ``name``, ``name:version`` or None into a name and a version that exist.

        Args:
            reference: Without a version, the model's pinned version or its newest; without a name,
                the repository's default model.

        Raises:
            ArtifactError: No such model or version; the message lists those that exist.
        """
        name, _, wanted = (reference or self.default_model()).partition(":")
        versions = self.versions(name)
        if not versions:
            if not (names := self.names()):
                raise ArtifactError(
                    f"{self.root}: expected a folder of <name>/<version>/, got no model in it"
                )
            raise ArtifactError(f'model "{name}": expected one of {", ".join(names)}')
        if not wanted:
            version = self.settings().default_versions.get(name, versions[-1])
        else:
            version = int(wanted) if _VERSION.fullmatch(wanted) else 0
        if version not in versions:
            available = ", ".join(map(str, versions))
            raise ArtifactError(
                f'model "{name}": no version {wanted or version}; available: {available}'
            )
        return name, version

    def default_model(self) -> str:
        """Return the repository's default model: the one that is set, or the only one.

        Raises:
            ArtifactError: None is set, and there is not exactly one model.
        """
        chosen = self.settings().default_model
        if chosen:
            return chosen
        names = self.names()
        if len(names) == 1:
            return names[0]
        raise ArtifactError(
            f"{self.root}: expected a default model, got {', '.join(names) or 'no models'}; "
            "name one, or run `foveal models default NAME`"
        )

    def settings(self) -> RepositorySettings:
        """Return the repository's settings; nothing is set without a ``repository.json``."""
        path = self.root / _SETTINGS_JSON
        try:
            document = json.loads(read_file(path, _MOST_JSON_BYTES))
            name = document.get("default_model")
            if not isinstance(name, str | None):
                raise TypeError(f"default_model {name!r}")
            return RepositorySettings(
                name,
                {str(name): int(v) for name, v in document.get("default_versions", {}).items()},
                {str(name): read_rollout(r) for name, r in document.get("traffic", {}).items()},
                {str(name): _share(share) for name, share in document.get("record", {}).items()},
                {str(n): read_promotion(p) for n, p in document.get("promotions", {}).items()},
            )
        except FileNotFoundError:
            return RepositorySettings()
        except OSError as error:
            raise ArtifactError(f"{path}: expected a file, got {error.strerror}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f'{path}: expected {{"default_model": NAME, "default_versions": {{NAME: V}}}}, '
                f"got {error}"
            ) from None

    def set_default(self, name: str, version: int | None = None) -> None:
        """Make a model the default, or pin the version that it serves.

        Args:
            name: An existing model.
            version: Version that ``name`` serves until another is pinned, even if newer ones are
                published; None makes ``name`` the default model.
        """
        reference = name if version is None else f"{name}:{version}"
        self.resolve(reference)

        def change(settings: RepositorySettings) -> RepositorySettings:
            if version is None:
                return replace(settings, default_model=name)
            pinned = {**settings.default_versions, name: version}
            settings = replace(settings, default_versions=pinned)
            return _stop_promotion(settings, name, but_against=version)

        self.change(change)

    def unpin(self, name: str) -> int:
        """Let a model serve its newest version, also one that is published later.

        Returns:
            The version that is served now.

        Raises:
            ArtifactError: No such model.
        """
        # Not `resolve(name)`: the pinned version may be gone.
        _, newest = self.resolve(f"{name}:{max(self.versions(name), default=0)}")

        def change(settings: RepositorySettings) -> RepositorySettings:
            pinned = {n: v for n, v in settings.default_versions.items() if n != name}
            return _stop_promotion(replace(settings, default_versions=pinned), name)

        self.change(change)
        return newest

    def set_rollout(self, name: str, rollout: Rollout) -> None:
        """Give candidates a share of a model's requests, in place of those that had one.

        Raises:
            ArtifactError: No such model, a new candidate is no version of it or none that can be
                compared with the version that serves, or a promotion decides about the shares.
        """
        _, served = self.resolve(name)
        settings = self.settings()
        known = settings.rollouts.get(name, NO_ROLLOUT).versions  # the other of the two may stay
        for version in rollout.versions:
            self.resolve(f"{name}:{version}")
            if version in known or version == served:
                continue
            if why := why_incomparable(self.load(name, version), self.load(name, served)):
                raise ArtifactError(why)

        def change(settings: RepositorySettings) -> RepositorySettings:
            promotion = settings.promotions.get(name)
            if promotion is not None and promotion.is_running:
                raise ArtifactError(
                    f"{name}:{promotion.version} is being promoted, which sets these shares; stop "
                    f"it first: foveal models promote {name} --stop"
                )
            return replace(settings, rollouts={**settings.rollouts, name: rollout})

        self.change(change)

    def change(self, change: Callable[[RepositorySettings], RepositorySettings]) -> None:
        """Change ``repository.json`` in one step that no other process's change can undo.

        Args:
            change: From the settings as they are now to those that are written; what it raises
                leaves them.

        Raises:
            ArtifactError: It cannot be read.
            OSError: It cannot be written, or another process has held its lock for seconds.
        """
        with locked(self.root / _LOCK):
            before = self.settings()
            after = change(before)
            if after != before:
                self._write_settings(after)

    def set_record(self, name: str, share: float | None) -> None:
        """Set the share of a model's requests that is recorded.

        Args:
            name: An existing model.
            share: 0 to 1; None: the service's own.

        Raises:
            ArtifactError: No such model.
        """
        self.resolve(f"{name}:{max(self.versions(name), default=0)}")

        def change(settings: RepositorySettings) -> RepositorySettings:
            records = {n: s for n, s in settings.records.items() if n != name}
            if share is not None:
                records[name] = share
            return replace(settings, records=records)

        self.change(change)

    def _write_settings(self, settings: RepositorySettings) -> None:
        document: dict[str, object] = {
            "default_model": settings.default_model,
            "default_versions": settings.default_versions,
        }
        # Written only if it is not empty: earlier versions do not know the field.
        if rollouts := {n: r.document for n, r in settings.rollouts.items() if r != NO_ROLLOUT}:
            document["traffic"] = rollouts
        if settings.records:
            document["record"] = settings.records
        if settings.promotions:
            document["promotions"] = {n: p.document for n, p in settings.promotions.items()}
        write_atomically(self.root / _SETTINGS_JSON, json.dumps(document, indent=2) + "\n")

    def load(self, name: str, version: int) -> ModelArtifact:
        """Read ``model.json`` of a version and check that it belongs to this folder.

        Raises:
            ArtifactError: No ``model.json``, one that breaks the format, or one of another model.
        """
        path = self.path(name, version) / MODEL_JSON
        try:
            text = read_file(path, _MOST_JSON_BYTES)
        except OSError as error:
            raise ArtifactError(
                f"{path}: expected a file, got {error.strerror}; publish the model again"
            ) from None
        artifact = ModelArtifact.from_json(text, str(path))
        if (artifact.name, artifact.version) != (name, version):
            raise ArtifactError(
                f"{path}: expected {name}:{version}, got {artifact.reference!r}; "
                "versions are not copied or renamed by hand, publish instead"
            )
        return artifact

    def fingerprint(self, name: str, version: int) -> Fingerprint:
        """Return a value that changes with any file of a version or its plan; reads no file.

        Returns:
            (path, inode, bytes, nanoseconds of the last change) of each file, by path.
        """
        paths = [str(self.plan_path(name, version))]
        for folder, _, files in os.walk(self.path(name, version)):
            paths += [os.path.join(folder, file) for file in files]  # noqa: PTH118 - a poll's loop
        entries = []
        for path in paths:
            try:
                stat = os.stat(path)  # noqa: PTH116
            except OSError:  # no plan, or gone since it was listed
                continue
            entries.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(sorted(entries))

    def read_file(self, artifact: ModelArtifact, path: str) -> bytes:
        """Read a file that the artifact lists (ONNX or golden image) and check its digest.

        Raises:
            ArtifactError: Missing, or not the bytes that were published.
        """
        full = self.path(artifact.name, artifact.version) / path
        sizes = {file.data.path: file.data.size_bytes for file in artifact.files if file.data}
        try:
            content = read_file(full, sizes.get(path, MOST_BYTES))
        except OSError as error:
            raise _unreadable(full, error) from None
        _check_digest(full, hashlib.sha256(content).hexdigest(), artifact.digests[path])
        return content

    def read_model(self, artifact: ModelArtifact, path: str) -> bytes:
        """Read one of the artifact's ONNX files and check digest, graph and that it is complete.

        A data file beside it is checked, too, and not kept in memory.

        Raises:
            ArtifactError: As ``read_file``, or the graph differs from model.json: its tensors, or
                the name, version and labels in its metadata.
        """
        content = self.read_file(artifact, path)
        folder = self.path(artifact.name, artifact.version)
        data = next(file.data for file in artifact.files if file.path == path)
        try:
            check_graph(content, artifact.inputs, artifact.outputs, artifact.metadata, data)
        except OnnxFileError as error:
            raise ArtifactError(f"{folder / path}: {error}; publish the model again") from None
        if data is not None:
            _check_data(folder / data.path, data)
        return content

    def check_model(self, artifact: ModelArtifact, path: str) -> Path:
        """Check one of the artifact's ONNX files as ``read_model``; return where it is opened.

        What is opened later is what was checked as versions never change; a load that goes on for
        long compares ``fingerprint`` at its end.

        Raises:
            ArtifactError: As ``read_model``.
        """
        self.read_model(artifact, path)
        return self.path(artifact.name, artifact.version) / path

    def verify(self, name: str, version: int) -> ModelArtifact:
        """Check everything that can be checked without running the model.

        Raises:
            ArtifactError: The first error found.
        """
        artifact = self.load(name, version)
        for file in artifact.files:
            self.read_model(artifact, file.path)
        for golden in artifact.golden:
            self.read_file(artifact, golden.path)
        return artifact

    def publish(self, name: str, build: Callable[[Path, int], ModelArtifact]) -> ModelArtifact:
        """Publish the next version of a model: all of it, or nothing.

        Args:
            name: Lower-case letters, digits, dots, dashes, underscores.
            build: Called with an empty directory and the version's number; writes the ONNX and
                golden files there and returns the artifact. If it raises, nothing is left behind.

        Returns:
            The published artifact.

        Raises:
            ArtifactError: A bad name, or the result of ``build`` does not verify.
        """
        check_name(name)
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
        try:
            while True:
                version = (self.versions(name) or [0])[-1] + 1
                built = staging / name / str(version)
                shutil.rmtree(staging / name, ignore_errors=True)
                built.mkdir(parents=True)
                artifact = build(built, version)
                (built / MODEL_JSON).write_text(artifact.to_json(), encoding="utf-8")
                ModelRepository(staging).verify(name, version)
                for path in [*built.rglob("*"), built]:
                    sync(path)  # before the rename, which could else outlive the content
                try:
                    built.rename(folder / str(version))
                except OSError:  # another publisher took this number: build again for the next
                    if (folder / str(version)).exists():
                        continue
                    raise
                return artifact
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if not any(folder.iterdir()):
                folder.rmdir()

    def rollback(self, name: str) -> int:
        """Pin the version before the served one.

        Returns:
            The version that is served now.

        Raises:
            ArtifactError: There is no older version.
        """
        _, current = self.resolve(name)
        older = [version for version in self.versions(name) if version < current]
        if not older:
            raise ArtifactError(f'model "{name}": expected a version before {current}, got none')
        self.set_default(name, older[-1])
        return older[-1]


def _share(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"record: a share of {value!r}, not 0 to 1")
    return float(value)


def _stop_promotion(
    settings: RepositorySettings, name: str, but_against: int = 0
) -> RepositorySettings:
    """Return settings in which no promotion goes on, but one against the version that is pinned."""
    promotion = settings.promotions.get(name)
    if promotion is None or not promotion.is_running or promotion.against == but_against:
        return settings
    stopped = promotion.ended("stopped", time.time(), "the served version was set by command")
    return replace(
        settings,
        rollouts={**settings.rollouts, name: stopped.rollout},
        promotions={**settings.promotions, name: stopped},
    )


def _check_data(path: Path, data: DataFile) -> None:
    try:
        digest = hash_file(path, data.size_bytes)
    except OSError as error:
        raise _unreadable(path, error) from None
    _check_digest(path, digest, data.sha256)


def _check_digest(path: Path, digest: str, expected: str) -> None:
    if digest != expected:
        raise ArtifactError(
            f"{path}: expected the sha256 {expected[:12]}… of model.json, got another; "
            "publish the model again"
        )


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: expected a file, got {error.strerror}; publish the model again")


def check_name(name: str) -> None:
    """Check the name of a model: lower-case letters, digits, dots, dashes, underscores.

    Raises:
        ArtifactError: Another character, or more than 64.
    """
    if not _NAME.fullmatch(name):
        raise ArtifactError(
            f"model name: expected a-z, 0-9, '.', '_', '-', at most 64, got {name!r}"
        )
