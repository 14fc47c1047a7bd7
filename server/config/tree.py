"""The whole configuration, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from server.config.alias import AliasConfig
from server.config.base import Section, Share
from server.config.engine import EngineConfig
from server.config.http import ChatConfig, HttpConfig, ImageFetchConfig
from server.config.limits import LimitsConfig, RolloutsConfig, ShadowConfig
from server.config.store import StoreConfig


class TracingConfig(Section):
    """Traces of chat requests by OpenTelemetry (`pip install plumbline[tracing]`). They hold no texts."""

    endpoint: str = Field("", pattern=r"^$|^https?://[^\s?#@]+$")
    """Where spans are sent, OTLP over HTTP, as `http://127.0.0.1:4318/v1/traces`. Empty: off. Headers and certificates
    are OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_*`)."""
    share: Share = 1.0
    """Share of the requests that are traced."""
    service_name: str = Field("plumbline", min_length=1, max_length=128)
    """How traces name this service."""


class Config(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="PLUMBLINE_",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    http: HttpConfig = HttpConfig()
    chat: ChatConfig = ChatConfig()
    image_fetch: ImageFetchConfig = ImageFetchConfig()
    engine: EngineConfig = EngineConfig()
    store: StoreConfig = StoreConfig()
    limits: LimitsConfig = LimitsConfig()
    shadow: ShadowConfig = ShadowConfig()
    tracing: TracingConfig = TracingConfig()
    rollouts: RolloutsConfig = RolloutsConfig()
    aliases: tuple[AliasConfig, ...] = (AliasConfig(),)
    """Aliases served by this installation; the first is the default."""
    secret: SecretStr | None = None
    """Key of feedback tokens and user hashes; without one, a random key is kept in the store's directory."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged, one JSON object a line on standard error."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [alias.name for alias in self.aliases]
        if not names or len(set(names)) != len(names):
            raise ValueError("aliases need at least one entry, and names that differ")
        return self

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Self:
        if not self.http.require_keys and self.http.host not in {"127.0.0.1", "localhost", "::1"}:
            raise ValueError("http.host is not a loopback address: set http.require_keys = true")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_config(path: Path | None) -> Config:
    """Read the file (none: defaults) and the environment; raises `pydantic.ValidationError` or `OSError`."""
    if path is None:
        return Config()
    path.open("rb").close()  # a missing file is an error, not an empty configuration

    class FileConfig(Config):
        model_config = SettingsConfigDict(toml_file=path)

    return FileConfig()
