"""Settings that every service has: environment variables with one prefix, read once at the start."""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "WEIGHBRIDGE_"


def _default_store() -> str:
    return f"file://{Path('.weighbridge/store').absolute()}"


class CommonSettings(BaseSettings):
    """What a service of any kind can be told. Subclasses add their own.

    A field's variable is `WEIGHBRIDGE_` and its name; the `_s` of seconds is left out: `WEIGHBRIDGE_DRAIN`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    """Address to bind. Anything but loopback needs TLS."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to bind. 0: a free one, named in the log."""
    health_port: int = Field(default=0, ge=0, le=65535)
    """Port of grpc.health.v1 alone, in plaintext on every address, for a container's probes. 0: none."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of the Prometheus metrics. 0: none."""
    state_dir: Path = Path(".weighbridge/state")
    """Directory of this service alone: what it must find again after a restart."""
    store_url: str = Field(default_factory=_default_store)
    """The content-addressed store that all services share: `file:///…` or `s3://bucket/prefix`."""
    model_root: Path = Path(".weighbridge/models")
    """Directory of the local models that specs may name."""
    identities_file: Path = Path(".weighbridge/identities.json")
    """Who may call what: see `auth`."""
    token_file: Path | None = None
    """File with this service's own token, for the calls that it makes."""
    secrets_dir: Path = Path(".weighbridge/secrets")
    """Directory of the secrets that specs may name, one directory a project."""
    drain_s: NonNegativeFloat = Field(default=5.0, validation_alias=f"{PREFIX}DRAIN")
    """Time that clients get to see that this service is no longer serving, before it stops."""
    grace_s: NonNegativeFloat = Field(default=20.0, validation_alias=f"{PREFIX}GRACE")
    """Time that calls in flight get to end when it stops."""
    log_format: Literal["json", "console"] = "console"
    """One JSON object a line, or text for people."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severity that is logged."""
    otlp_endpoint: str = ""
    """Where OpenTelemetry traces go (OTLP over gRPC). Empty: nowhere."""
    tls_cert: Path | None = None
    """Certificate chain of this service, PEM."""
    tls_key: Path | None = None
    """Its private key, PEM."""
    tls_ca: Path | None = None
    """Authority that the peers it calls are certified by, PEM. Set: it calls them over TLS."""

    @model_validator(mode="after")
    def _refuse_plaintext_beyond_loopback(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(f"{PREFIX}TLS_CERT and {PREFIX}TLS_KEY go together: set both or neither")
        if self.tls_cert is None and not is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}HOST={self.host} would send tokens in plaintext: "
                f"set {PREFIX}TLS_CERT and {PREFIX}TLS_KEY, or bind 127.0.0.1"
            )
        return self

    def token(self) -> str:
        """Return this service's own token. Raises ValueError where no file is set, OSError where none is."""
        if self.token_file is None:
            raise ValueError(f"{PREFIX}TOKEN_FILE is not set, but this service calls others")
        return self.token_file.read_text().strip()


def is_loopback(host: str) -> bool:
    """Say whether `host` (an address, or `localhost`) is reached from this machine only."""
    if host == "localhost":
        return True
    # Other names are not looked up: what they resolve to may change after this check.
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
