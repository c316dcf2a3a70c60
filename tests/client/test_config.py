"""Where the platform is, and which token it gets to see."""

import json
from pathlib import Path

import pytest

from weighbridge import Client, config
from weighbridge.exceptions import NotConfigured


def save(home: Path, **saved: str) -> None:
    home.mkdir()
    (home / "user.token").write_text("saved-token\n")
    (home / "client.json").write_text(json.dumps({"token_file": str(home / "user.token"), **saved}))


def test_what_up_wrote_is_enough(home: Path) -> None:
    save(home, target="127.0.0.1:7700")
    found = config.resolve()
    assert (found.target, found.token, found.project) == ("127.0.0.1:7700", "saved-token", "default")


def test_the_environment_comes_before_what_up_wrote(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(home, target="127.0.0.1:7700", project="saved")
    monkeypatch.setenv("WEIGHBRIDGE_TOKEN", "env-token")
    monkeypatch.setenv("WEIGHBRIDGE_PROJECT", "env")
    found = config.resolve()
    assert (found.target, found.token, found.project) == ("127.0.0.1:7700", "env-token", "env")


def test_arguments_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_TARGET", "127.0.0.1:1")
    monkeypatch.setenv("WEIGHBRIDGE_TOKEN", "env-token")
    found = config.resolve("127.0.0.1:2", "token", "project")
    assert (found.target, found.token, found.project) == ("127.0.0.1:2", "token", "project")


def test_a_token_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("WEIGHBRIDGE_TOKEN_FILE", str(tmp_path / "token"))
    assert config.resolve("127.0.0.1:1").token == "from-file"


def test_a_saved_token_is_not_shown_to_another_platform(home: Path) -> None:
    save(home, target="127.0.0.1:7700")
    with pytest.raises(NotConfigured, match=r"a token for 127\.0\.0\.1:9 is not known"):
        config.resolve("127.0.0.1:9")


def test_a_token_does_not_leave_this_machine_in_plaintext() -> None:
    with pytest.raises(NotConfigured, match="WEIGHBRIDGE_TLS_CA"):
        Client("gateway.example.org:7700", "token")


def test_a_token_does_not_show_in_logs() -> None:
    assert "secret" not in repr(config.Config("127.0.0.1:1", "secret", "default"))


def test_without_anything_it_says_what_to_do() -> None:
    with pytest.raises(NotConfigured, match="weighbridge up"):
        Client()


@pytest.mark.parametrize("content", ["{", "[]", '{"target": 1}'])
def test_a_broken_client_file_is_named(content: str, home: Path) -> None:
    home.mkdir()
    (home / "client.json").write_text(content)
    with pytest.raises(NotConfigured, match=r"client\.json"):
        config.resolve()
