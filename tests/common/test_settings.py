from pathlib import Path

import pytest
from pydantic import ValidationError

from services.common.settings import CommonSettings, is_loopback


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "DRAIN", "GRACE", "STORE_URL", "TOKEN_FILE", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"WEIGHBRIDGE_{name}", raising=False)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "7001")
    monkeypatch.setenv("WEIGHBRIDGE_DRAIN", "1.5")
    monkeypatch.setenv("WEIGHBRIDGE_STORE_URL", "s3://bucket/x")
    monkeypatch.setenv("WEIGHBRIDGE_NO_SUCH_SETTING", "x")
    settings = CommonSettings()
    assert (settings.port, settings.drain_s, settings.store_url) == (7001, 1.5, "s3://bucket/x")


def test_a_service_stays_on_this_machine_by_default() -> None:
    settings = CommonSettings()
    assert settings.host == "127.0.0.1"
    assert settings.store_url.startswith("file:///")


def test_another_address_needs_tls(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="WEIGHBRIDGE_TLS_CERT"):
        CommonSettings(host="0.0.0.0")
    pair = {"tls_cert": tmp_path / "c", "tls_key": tmp_path / "k"}
    assert CommonSettings(host="0.0.0.0", **pair).host == "0.0.0.0"
    with pytest.raises(ValidationError, match="go together"):
        CommonSettings(tls_cert=tmp_path / "c")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.org", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_own_token_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert CommonSettings(token_file=tmp_path / "token").token() == "secret"
    with pytest.raises(ValueError, match="WEIGHBRIDGE_TOKEN_FILE"):
        CommonSettings().token()
