import re
from pathlib import Path

import pytest

from scoring.remote import API_KEY
from service.settings import Settings, SettingsError, load_settings
from service.workers.worker import VARIABLE


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"FOVEAL_{field.upper()}", raising=False)


def test_defaults_are_valid_and_point_at_the_shipped_models() -> None:
    settings = load_settings()
    assert settings.models == Path(__file__).resolve().parents[2] / "models"
    assert settings.max_queue_delay_ms == 0, "work-conserving unless asked otherwise"


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("FOVEAL_KEEP_ALIVE_S", "1.5")
    settings = load_settings()
    assert (settings.max_batch_size, settings.keep_alive_s) == (7, 1.5)


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_MAX_BATCH_SIZE", "0")
    monkeypatch.setenv("FOVEAL_DEVICE", "abacus")
    monkeypatch.setenv("FOVEAL_KEEP_ALIVE_S", "soon")
    monkeypatch.setenv("FOVEAL_TLS_CERT", "cert.pem")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    message = str(refused.value)
    assert "\n" not in message
    for words in (
        "FOVEAL_MAX_BATCH_SIZE",
        "'0'",
        "FOVEAL_DEVICE",
        "'abacus'",
        "FOVEAL_KEEP_ALIVE_S",
        "'soon'",
    ):
        assert words in message
    assert "Value error" not in message and "unable to parse" not in message


def test_a_variable_that_is_gone_is_named_with_those_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEAL_MAX_QUEUE_ROWS", "2048")
    monkeypatch.setenv("FOVEAL_MAX_WAIT_MS", "0")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    message = str(refused.value)
    assert "FOVEAL_MAX_QUEUE_ROWS: expected FOVEAL_MAX_WAIT_MS, " in message
    assert "FOVEAL_MAX_INFLIGHT_MIB" in message and "got '2048'; unset it" in message
    assert "FOVEAL_MAX_WAIT_MS: expected greater than 0" in message, "all at once"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("FOVEAL_MAX_BATCHSIZE", r"did you mean FOVEAL_MAX_BATCH_SIZE\?"),
        ("FOVEAL_BATCH_SIZE", r"did you mean FOVEAL_MAX_BATCH_SIZE\?"),
        ("foveal_worker", r"did you mean FOVEAL_WORKERS\?"),
        ("FOVEAL_", "docs/reference/settings.md has all"),
        ("FOVEAL_XYZZY_42", "docs/reference/settings.md has all"),
        ("FOVEAL_PORT", "use `foveal serve --port`"),
        ("FOVEAL_HOST", "use `foveal serve --host`"),
    ],
)
def test_a_name_that_is_no_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setenv(name, "8")
    monkeypatch.setenv("FOVEAL_DEVICE", "abacus")
    with pytest.raises(SettingsError, match="'abacus'") as refused:
        load_settings()
    assert re.search(f"{name}: expected the name of a setting, got none; {how}", str(refused.value))


def test_other_names_that_are_known_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        (API_KEY, "k"),
        (VARIABLE, "1 2 3"),
        ("FOVEAL_PEERS", "/peers"),
        ("foveal_workers", "3"),  # as on Windows
        ("FOVEALS", "1"),
        # Kubernetes, for the services foveal and foveal-web
        ("FOVEAL_PORT", "tcp://10.0.0.1:3000"),
        ("FOVEAL_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
        ("FOVEAL_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("FOVEAL_SERVICE_HOST", "10.0.0.1"),
        ("FOVEAL_SERVICE_PORT_HTTP", "3000"),
        ("FOVEAL_WEB_PORT", "udp://10.0.0.1:3000"),
        ("FOVEAL_WEB_SERVICE_PORT", "3000"),
    ):
        monkeypatch.setenv(name, value)
    assert load_settings().workers == 3


def test_buckets_that_are_none_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_BUCKETS", "4,2")
    expected = "FOVEAL_BUCKETS: .*expected auto or rising batch sizes as 1,2,4,8, got '4,2'$"
    with pytest.raises(SettingsError, match=expected):
        load_settings()


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_described(field: str) -> None:
    assert Settings.model_fields[field].description


@pytest.mark.parametrize(
    "field",
    ["request_timeout_s", "receive_timeout_s", "keep_alive_s", "drain_timeout_s", "max_batch_size"],
)
@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_limits_must_be_positive(monkeypatch: pytest.MonkeyPatch, field: str, value: str) -> None:
    monkeypatch.setenv(f"FOVEAL_{field.upper()}", value)
    with pytest.raises(SettingsError, match=f"FOVEAL_{field.upper()}"):
        load_settings()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory_mib", "workers", "inflight_mib", "pixels", "body"),
    [
        (128, 1, 16, 16 * MIB // 5, 4 * MIB),
        (512, 1, 64, 64 * MIB // 5, 16 * MIB),
        (1024, 2, 64, 64 * MIB // 5, 16 * MIB),
        (1024, 1, 192, 1 << 25, 32 * MIB),
        (1 << 18, 4, 192, 1 << 25, 32 * MIB),
    ],
)
def test_limits_follow_the_memory_of_a_worker(
    monkeypatch: pytest.MonkeyPatch,
    memory_mib: int,
    workers: int,
    inflight_mib: int,
    pixels: int,
    body: int,
) -> None:
    monkeypatch.setattr("service.settings.available_memory", lambda: memory_mib * MIB)
    monkeypatch.setenv("FOVEAL_WORKERS", str(workers))
    settings = load_settings()
    assert settings.max_inflight_mib == inflight_mib
    assert settings.max_image_pixels == pixels
    assert settings.max_body_bytes == body


def test_a_limit_that_is_set_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.available_memory", lambda: 512 * MIB)
    monkeypatch.setenv("FOVEAL_MAX_INFLIGHT_MIB", "500")
    settings = load_settings()
    assert settings.max_inflight_mib == 500
    assert settings.max_body_bytes == 16 * MIB
