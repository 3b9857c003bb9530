"""Every setting of the service: environment variables ``FOVEAL_*``, checked together at start.

README's table lists the same fields; a test compares them. Knows nothing about who uses them.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.session.buckets import BucketError, parse_buckets


class SettingsError(ValueError):
    """One or more variables are wrong; the message names them all."""


class Settings(BaseSettings):
    """The service's settings; each field is the variable ``FOVEAL_<FIELD>`` in capitals."""

    model_config = SettingsConfigDict(env_prefix="FOVEAL_", frozen=True, extra="ignore")

    models: Path = Field(
        default=Path(__file__).resolve().parent.parent / "models",
        description="Model repository: a folder of <name>/<version>/",
    )
    default_model: str = Field(
        default="", description="Model behind /predict; empty: the repository's default"
    )
    loaded_versions: int = Field(
        default=2, ge=1, description="Newest versions of each model kept loaded, pinned one aside"
    )
    reload_s: float = Field(
        default=2.0, ge=0, le=3600, description="How often the repository is looked at; 0: never"
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="Where sessions run; auto: a GPU if one works, else the CPU"
    )
    gpu_memory_mib: int = Field(
        default=0,
        ge=0,
        description="Memory of one GPU that all models of a worker may hold; 0: all",
    )
    gpu_tf32: bool = Field(
        default=False, description="Whether float32 products on a GPU may be rounded to TF32"
    )
    engine_cache: str = Field(
        default="", description="Folder of TensorRT's engines; empty: ~/.cache/foveal/engines"
    )
    buckets: str = Field(
        default="auto",
        description="Batch sizes that are run, as 1,4,16; auto: chosen on a GPU, any on a CPU",
    )
    precision: Literal["auto", "fp32", "int8", "fp16"] = Field(
        default="fp32", description="Which file of a model answers; auto: the fastest, measured"
    )
    workers: int = Field(default=1, ge=1, le=256, description="Processes sharing the port")
    threads: int = Field(
        default=0,
        ge=0,
        description="Threads a run may use; 0: measured, at most the share of cores",
    )
    instances: int = Field(
        default=1, ge=1, le=256, description="Runs of a model at once, each on a thread of its own"
    )
    max_batch_size: int = Field(default=64, ge=1, le=4096, description="Rows one run gets at most")
    max_queue_delay_ms: float = Field(
        default=0, ge=0, le=10_000, description="Longest wait for company while the runner is free"
    )
    max_queue_rows: int = Field(
        default=2048, ge=1, description="Rows that may wait, per model; more are refused with 429"
    )
    max_request_rows: int = Field(default=512, ge=1, description="Rows in one request")
    max_body_bytes: int = Field(default=32 << 20, ge=1024, description="Largest request body")
    max_image_pixels: int = Field(
        default=1 << 25, ge=1, description="Largest image, width x height"
    )
    decode_threads: int = Field(
        default=0, ge=0, description="Threads that decode large images; 0: one a core"
    )
    request_timeout_s: float = Field(
        default=30, gt=0, description="Deadline of a request that names none"
    )
    receive_timeout_s: float = Field(
        default=20, gt=0, description="Time for a request to arrive whole"
    )
    keep_alive_s: float = Field(
        default=75, gt=0, description="Idle connections are closed after this"
    )
    grpc_port: int = Field(default=8001, ge=0, le=65535, description="Port of V2 over gRPC; 0: off")
    grpc_host: str = Field(default="0.0.0.0", description="Address of V2 over gRPC")
    admin_token: str = Field(
        default="", repr=False, description="Bearer token of load, unload and traffic; empty: off"
    )
    drain_timeout_s: float = Field(
        default=25, gt=0, description="On stop, time for accepted requests to be answered"
    )
    access_log: float = Field(
        default=0, ge=0, le=1, description="Share of answers that get a line of JSON on stdout"
    )

    @field_validator("buckets")
    @classmethod
    def _are_buckets(cls, text: str) -> str:
        try:
            parse_buckets(text)
        except BucketError as error:  # what was got is said for all settings alike
            raise ValueError(str(error).partition(", got")[0]) from None
        return text


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: Names every variable that is wrong, what was expected and what was got.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"FOVEAL_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}, "
            f"got {problem['input']!r}"
            for problem in error.errors()
        ]
        raise SettingsError("settings: " + "; ".join(lines)) from None
