"""A model behind a running service, called over HTTP: what ``foveal predict --url`` uses.

Standard library only, one keep-alive connection, one image a request. A service with keys gets the
one in the variable ``FOVEAL_API_KEY``; the certificate of ``https://`` is checked against the
system's, or against the file in ``SSL_CERT_FILE``.
"""

import http.client
import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from models.repository import ModelRepository
from scoring.predictions import Response, Result
from service.errors import NOT_A_NUMBER

API_KEY = "FOVEAL_API_KEY"
# Errors of the image itself; any other status is about the request or the service.
_IMAGE_REFUSED = frozenset({400, 413, 415})


class RemoteError(Exception):
    """The service is unreachable, is another program, or fails for a reason besides the image."""


class RemoteModel:
    """A named model of a service, or its default model.

    Args:
        url: ``http://host:port``, with a path if the service is behind one.
        reference: ``name`` or ``name:version``; "" is the service's default.
        timeout_s: For connecting and for each response, seconds.

    Raises:
        RemoteError: The URL is invalid.
    """

    def __init__(self, url: str, reference: str = "", timeout_s: float = 60) -> None:
        self._url = url.rstrip("/")
        self._name, _, version = reference.partition(":")
        self._version = int(version) if version.isdecimal() else 0
        self._connection, prefix = connect(self._url, timeout_s)
        self._path = f"{prefix}/models/{quote(self._name)}" if self._name else prefix
        self._path += f"/versions/{quote(version)}/predict" if version else "/predict"

    def predict(self, images: Sequence[bytes], top: int) -> Response:
        """Classify encoded images; a bad one gets its own error.

        Args:
            images: One encoded image each.
            top: Labels for each image, 1 or more.

        Raises:
            RemoteError: No response, or an error that is not an image's.
        """
        response: Response = {"model": self._name, "version": self._version, "results": []}
        try:
            for encoded in images:
                document = self._post(encoded, top)
                if "error" not in document:
                    response["model"], response["version"] = document["model"], document["version"]
                    document = document["results"][0]
                response["results"].append(document)
        except (KeyError, IndexError, TypeError) as error:
            raise RemoteError(
                f"{self._url}: expected a response of Foveal, got one without {error}; "
                "check the address"
            ) from error
        finally:
            self._connection.close()
        return response

    def _post(self, encoded: bytes, top: int) -> Any:
        """Return the parsed response of ``/predict``, or the error of an image."""
        try:
            self._connection.request(
                "POST",
                f"{self._path}?top={top}",
                encoded,
                {"Content-Type": "application/octet-stream"} | authorization(),
            )
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RemoteError(
                f"{self._url}: expected a running service, got: {reason}; "
                "start one with `foveal serve`"
            ) from error
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if response.status == 200 and isinstance(document, dict):
            return document
        if not isinstance(document, dict) or "error" not in document:
            raise RemoteError(
                f"{self._url}: expected a response of Foveal, got status {response.status} and "
                f"{response.headers.get_content_type()}; check the address"
            )
        if response.status == 401:
            raise RemoteError(
                f"{self._url}: expected a key of the service in {API_KEY}, got "
                + ("another" if os.environ.get(API_KEY) else "none")
            )
        message = str(document["error"])
        if response.status not in _IMAGE_REFUSED and not message.startswith(NOT_A_NUMBER):
            raise RemoteError(f"{self._url}: {message}")
        refused: Result = {"error": message}
        return refused


def authorization() -> dict[str, str]:
    """Return the header that carries the key of this environment, if there is one."""
    key = os.environ.get(API_KEY, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def check_served(url: str, repository: ModelRepository, reference: str) -> None:
    """Classify one golden image, to find a wrong address or model before any other request.

    Args:
        url: ``http://host:port``.
        repository: Holds the version's golden images.
        reference: ``name:version``.

    Raises:
        RemoteError: There is no service at ``url``, or it does not serve the version.
    """
    artifact = repository.load(*repository.resolve(reference))
    image = repository.read_file(artifact, artifact.golden[0].path)
    RemoteModel(url, reference).predict([image], 1)


def connect(url: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection, opened on first use, and the path before the routes."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if not host or parts.scheme not in ("http", "https"):
        raise RemoteError(f"url: expected http://host:port, got {url!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=timeout_s), parts.path
