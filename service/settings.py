"""Every setting of the service: environment variables ``FOVEAL_*``, checked together at start.

README's table lists the same fields; a test compares them. Knows nothing about their users.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.artifact import ArtifactError
from models.machine import available_memory
from models.repository import ModelRepository
from service.access.cors import Cors
from service.session.buckets import BucketError, parse_buckets

MIB = 1 << 20
_PREFIX = "FOVEAL_"
# Not settings: the key of clients, what the supervisor passes on, the folder of the benchmarks'
# peers, the place of the tests.
_OTHER_NAMES = frozenset({"API_KEY", "SUPERVISOR", "PEERS", "TEST_PLACE"})
# What Kubernetes gives a pod for each service whose name begins with foveal.
_OF_KUBERNETES = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|(\w+_)?PORT=\w+://.*"
)
# Of a worker that has a GiB and more.
MOST_BODY_BYTES = 32 * MIB


# Variables that are gone, and what to set in their place.
GONE = {
    "FOVEAL_MAX_QUEUE_ROWS": "FOVEAL_MAX_WAIT_MS, which bounds the queue in time, and "
    "FOVEAL_MAX_INFLIGHT_MIB, which bounds it in bytes",
}


class SettingsError(ValueError):
    """One or more variables are wrong; the message names them all."""


def request_memory(settings: dict[str, Any]) -> int:
    """Return the bytes that the requests of a worker may hold, by the memory it may use.

    A quarter of what the worker has beside 256 MiB of its own, 16 to 192 MiB: 64 MiB of 512. A
    picture of ``request_memory / 5`` pixels takes 9 bytes a pixel beside it, and each connection's
    buffers come on top (tests/e2e/test_small_memory.py measures them together).

    Args:
        settings: The settings that are read already.
    """
    workers: int = settings["workers"]
    own = available_memory() // workers
    return min(max(16 * MIB, (own - 256 * MIB) // 4), 192 * MIB)


class Settings(BaseSettings):
    """The service's settings; each field is the variable ``FOVEAL_<FIELD>`` in capitals."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    models: Path = Field(
        default=Path(__file__).resolve().parent.parent / "models",
        description="Model repository: a folder of <name>/<version>/",
    )
    default_model: str = Field(
        default="", description="Model behind /predict; empty: the repository's default"
    )
    loaded_versions: int = Field(
        default=2,
        ge=1,
        description="Newest versions of each model to keep loaded, besides a pinned one",
    )
    reload_s: float = Field(
        default=2.0, ge=0, le=3600, description="Seconds between polls of the repository; 0: never"
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="Device of all sessions; auto: a GPU if one works, else the CPU"
    )
    gpu_memory_mib: int = Field(
        default=0,
        ge=0,
        description="GPU memory that all models of a worker may hold, MiB; 0: all",
    )
    gpu_tf32: Literal["auto", "off", "on"] = Field(
        default="auto",
        description="Whether float32 products on a GPU may be rounded to TF32; "
        "auto: where FOVEAL_PRECISION=auto measures it to be faster",
    )
    gpu_decode: Literal["auto", "off", "rehearse"] = Field(
        default="auto",
        description="Where usual JPEGs are decoded if a GPU runs the models; auto: by its JPEG "
        "hardware, with the extra nvimgcodec; off: on the CPU; rehearse: by a stand-in, for tests",
    )
    engine_cache: str = Field(
        default="", description="Folder for TensorRT engines; empty: ~/.cache/foveal/engines"
    )
    buckets: str = Field(
        default="auto",
        description="Batch sizes to run, as 1,4,16; auto: measured on a GPU, any size on a CPU",
    )
    precision: Literal["auto", "fp32", "int8", "fp16"] = Field(
        default="fp32",
        description="Precision of the file that answers; auto: the fastest as measured",
    )
    brownout: Literal["off", "int8"] = Field(
        default="off",
        description="Precision that answers while rows would wait too long or miss a deadline; "
        "int8: loaded beside the other file, on a CPU, if it passed its gate",
    )
    workers: int = Field(default=1, ge=1, le=256, description="Processes that share the port")
    threads: int = Field(
        default=0,
        ge=0,
        description="Threads of one run; 0: measured, at most this process's share of the cores",
    )
    instances: int = Field(
        default=1, ge=1, le=256, description="Concurrent runs of a model, each on its own thread"
    )
    max_batch_size: int = Field(default=64, ge=1, le=4096, description="Most rows in one run")
    max_queue_delay_ms: float = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Longest wait for further rows while a runner is free, milliseconds",
    )
    max_wait_ms: float = Field(
        default=1000,
        gt=0,
        le=600_000,
        description="Longest wait for a run, milliseconds, as estimated from past runs; "
        "what would wait longer is refused with 429",
    )
    max_request_rows: int = Field(default=512, ge=1, description="Most rows in one request")
    max_body_bytes: int = Field(
        default_factory=lambda settings: min(MOST_BODY_BYTES, request_memory(settings) // 4),
        ge=1024,
        description="Largest request body, bytes; a gRPC message may have three quarters of it; "
        "default: by memory, at most 32 MiB",
    )
    max_json_bytes: int = Field(
        default=6 << 20, ge=1024, description="Longest JSON in a body, bytes"
    )
    max_values: int = Field(
        default=420_000,
        ge=1024,
        description="Most values in JSON or in gRPC's typed contents; binary tensors have no limit",
    )
    max_inflight_mib: int = Field(
        default_factory=lambda settings: request_memory(settings) // MIB,
        ge=1,
        description="Request bodies and decoded pixels that a worker holds at once, MiB; "
        "default: by memory, at most 192",
    )
    max_image_pixels: int = Field(
        default_factory=lambda settings: min(1 << 25, request_memory(settings) // 5),
        ge=1,
        description="Most pixels of an image as it is decoded; WebP, HEIC, AVIF, CMYK count twice; "
        "default: by memory, at most 33554432",
    )
    decode_threads: int = Field(
        default=0, ge=0, description="Threads that decode large images; 0: one for each core"
    )
    request_timeout_s: float = Field(
        default=30, gt=0, description="Deadline of a request that names none, seconds"
    )
    receive_timeout_s: float = Field(
        default=20, gt=0, description="Time for a request to arrive completely, seconds"
    )
    keep_alive_s: float = Field(
        default=75, gt=0, description="Time before an idle connection is closed, seconds"
    )
    grpc_port: int = Field(default=8001, ge=0, le=65535, description="Port of V2 over gRPC; 0: off")
    grpc_host: str = Field(default="0.0.0.0", description="Address of V2 over gRPC")
    admin_token: str = Field(
        default="",
        repr=False,
        description="Bearer token for load, unload and rollouts; empty: they are off",
    )
    api_keys_file: str = Field(
        default="",
        description="File of hashed API keys, written by `foveal keys add`; empty: no keys",
    )
    cors_origins: str = Field(
        default="",
        description="Origins whose web pages may read answers, commas between, or *; empty: none",
    )
    tls_cert: str = Field(
        default="", description="PEM certificate chain of HTTP and gRPC; empty: no TLS"
    )
    tls_key: str = Field(
        default="",
        validate_default=True,
        description="PEM private key of FOVEAL_TLS_CERT, without a password",
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port of /metrics alone; 0: on the port of HTTP"
    )
    metrics_host: str = Field(default="0.0.0.0", description="Address of FOVEAL_METRICS_PORT")
    drain_timeout_s: float = Field(
        default=25, gt=0, description="Time to answer accepted requests on stop, seconds"
    )
    feedback_rows: int = Field(
        default=0,
        ge=0,
        le=50_000_000,
        description="Answered rows that each worker remembers until their truth is told, at about "
        "75 bytes; 0: feedback is off",
    )
    access_log: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of answers that are logged as a line of JSON on stdout, 0 to 1",
    )

    record: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the requests that are recorded, 0 to 1, of models without their own "
        "(`foveal models record`)",
    )
    record_folder: str = Field(
        default="",
        description="Folder of the recording; empty: ~/.local/state/foveal/recording",
    )
    record_max_gib: float = Field(
        default=1,
        ge=0.01,
        description="Most of the recording on the disk, GiB; the oldest part is deleted first",
    )
    record_days: float = Field(
        default=7, gt=0, description="Days after which a part of the recording is deleted"
    )
    record_keep: Literal["all", "uncertain"] = Field(
        default="all",
        description="Rows that are recorded; uncertain: of low confidence, abstained, or answered "
        "differently by the shadow",
    )
    record_below: float = Field(
        default=0.6, gt=0, le=1, description="Confidence below which a row is uncertain"
    )
    record_exif: bool = Field(
        default=False,
        description="Whether recorded images keep EXIF (place, camera), comments and previews",
    )

    @field_validator("buckets")
    @classmethod
    def _are_buckets(cls, text: str) -> str:
        try:
            parse_buckets(text)
        except BucketError as error:  # load_settings appends the value, as for every setting
            raise ValueError(str(error).partition(", got")[0]) from None
        return text

    @field_validator("gpu_tf32", mode="before")
    @classmethod
    def _may_be_a_truth(cls, value: object) -> object:
        """Read 1 and true as on, 0 and false as off: before there was auto, it was one of them."""
        words = {"1": "on", "true": "on", "yes": "on", "0": "off", "false": "off", "no": "off"}
        return words.get(str(value).lower(), value)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        Cors(text.split(","))
        return text

    @field_validator("tls_key")
    @classmethod
    def _has_certificate(cls, text: str, info: ValidationInfo) -> str:
        if bool(text) != bool(info.data.get("tls_cert")):
            raise ValueError("expected FOVEAL_TLS_CERT and FOVEAL_TLS_KEY, or neither")
        return text

    @property
    def recording(self) -> Path:
        """Return the folder of the recording."""
        return recording_folder(self.record_folder)

    @property
    def max_message_bytes(self) -> int:
        """Return the size of the largest gRPC message.

        gRPC copies each on the event loop, 1.6 ms a MiB: 32 MiB would keep others for 50 ms.
        """
        return self.max_body_bytes * 3 // 4


def recording_folder(name: str) -> Path:
    """Return the folder of the recording by the setting's value: as XDG's specification says."""
    if name:
        return Path(name)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "foveal" / "recording"


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: One or more variables are wrong, or there are no such settings; the message
            names each with its value.
    """
    lines = [
        f"{name}: expected {instead}, got {os.environ[name]!r}; unset it"
        for name, instead in GONE.items()
        if name in os.environ
    ]
    lines += unknown_names()
    try:
        settings = Settings()
    except ValidationError as error:
        lines += [
            f"{_PREFIX}{'_'.join(map(str, problem['loc'])).upper()}: "
            f"{_wanted(problem['msg'])}, got {problem['input']!r}"
            for problem in error.errors()
            if problem["type"] != "default_factory_not_called"  # it follows another that is wrong
        ]
    if lines:
        raise SettingsError("; ".join(lines))
    return settings


def _wanted(message: str) -> str:
    """Return pydantic's message as ours, without what the value says itself."""
    message = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    return message.replace("Input should be", "expected")


def unknown_names(*others: str) -> list[str]:
    """Return a message for each variable ``FOVEAL_*`` that has no effect.

    Args:
        others: Names, without the prefix, that have one although they are not settings.
    """
    known = [field.upper() for field in Settings.model_fields]
    passed_over = {*known, *others, *_OTHER_NAMES}
    lines = []
    for variable, value in os.environ.items():
        name = variable.upper().removeprefix(_PREFIX)
        if name == variable.upper() or name in passed_over or variable in GONE:
            continue
        if _OF_KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        if name in ("HOST", "PORT"):
            how = f"use `foveal serve --{name.lower()}`"
        elif near := difflib.get_close_matches(name, known, 1):
            how = f"did you mean {_PREFIX}{near[0]}?"
        else:
            how = "docs/reference/settings.md has all"
        lines.append(f"{variable}: expected the name of a setting, got none; {how}")
    return lines


def served_names(repository: ModelRepository, default_model: str) -> list[str]:
    """Return the models of a repository; loads none.

    Args:
        repository: Repository.
        default_model: Overrides the repository's default model unless empty.

    Raises:
        ArtifactError: The repository is missing, or ``default_model`` is not in it.
    """
    names = repository.names()
    if default_model and default_model not in names:
        raise ArtifactError(
            f"FOVEAL_DEFAULT_MODEL: expected one of {', '.join(names) or 'none'}, "
            f"got {default_model!r}"
        )
    return names


def end_if_wrong(settings: Settings) -> None:
    """End the process with one line if the models of the settings cannot be served.

    For the supervisor: a worker that finds it out ends, and is replaced for ever.
    """
    try:
        served_names(ModelRepository(settings.models), settings.default_model)
    except ArtifactError as error:
        raise SystemExit(str(error)) from None
