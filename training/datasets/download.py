"""Downloads of a dataset's files into the user's cache, each file checked by its MD5."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pooch

from training.errors import DatasetError

_LOG = logging.getLogger(__name__)


def download(name: str, files: Mapping[str, str], *, unpack: list[str] | None = None) -> Path:
    """Download files that are not in the cache yet.

    Args:
        name: Name of the dataset and of its folder in the cache.
        files: URL to MD5.
        unpack: Members to extract from each file, a tar archive, into the folder; None for files
            that are no archives.

    Returns:
        The folder.

    Raises:
        DatasetError: A file is not available, or its checksum is wrong.
    """
    folder = Path(pooch.os_cache("foveal")) / name
    _LOG.info("%s: downloading into %s", name, folder)
    processor = pooch.Untar(members=unpack, extract_dir=".") if unpack else None
    for url, md5 in files.items():
        try:
            pooch.retrieve(url, f"md5:{md5}", url.rpartition("/")[2], folder, processor=processor)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
            reason = str(error).splitlines()[0]
            raise DatasetError(
                f"{name}: expected a file at {url}, got {reason}; give a folder with --data-dir"
            ) from error
    return folder
