"""All settings, read and checked once: from the environment, `.env` and `relay.toml`, all problems in one message."""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from relay.core import catalogue
from relay.core.accounts import SeenAccount
from relay.core.target import NOTHING, Allow, check_url, parse_allow
from relay.errors import ConfigurationError, Problem, TargetRefused

PREFIX: Final = "RELAY_"
ENV_FILE: Final = ".env"
TOML_FILE: Final = "relay.toml"
ADMIN_TOKEN_MIN_CHARS: Final = 24
SLOTS_MAX: Final = 10
INBOX_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,200}")
# For the client commands, which read them themselves.
_OF_CLIENTS: Final = frozenset({"RELAY_URL", "RELAY_TOKEN"})
_POSTGRES: Final = ("postgresql://", "postgres://")
_SECRET_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}=?")
# Set by platforms whose disks vanish with every restart, but for a volume where they have one.
_VANISHING: Final = {
    "DYNO": "Heroku",
    "RENDER": "Render",
    "RAILWAY_ENVIRONMENT_ID": "Railway",
    "FLY_APP_NAME": "Fly",
    "K_SERVICE": "Cloud Run",
    "CONTAINER_APP_NAME": "Azure Container Apps",
}
_DURATION: Final = re.compile(r"([0-9]{1,9})\s*(s|m|h|d)")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _duration_s(value: object) -> object:
    """`20s`, `10m`, `6h`, `7d`: seconds."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration such as 20s, 10m, 6h or 7d")
    return int(match[1]) * _UNIT_S[match[2]]


def _accounts(value: object) -> object:
    """`email=slots,email=slots`."""
    if not isinstance(value, str):
        return value
    seen = []
    for item in filter(None, (part.strip() for part in value.split(","))):
        email, _, slots = item.rpartition("=")
        if "@" not in email or not slots.isdecimal() or not 1 <= int(slots) <= SLOTS_MAX:
            raise ValueError(f"must be email=slots,email=slots with 1 to {SLOTS_MAX} slots each")
        seen.append(SeenAccount(email, int(slots)))
    if len({account.email for account in seen}) < len(seen):
        raise ValueError("must not name an account twice")
    return tuple(seen)


def _allow(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_allow(value)
        except ConfigurationError as error:
            raise ValueError(error.message.replace("RELAY_ALLOW_TARGETS: ", "")) from None
    return value


def _origins(value: object) -> object:
    """A list with commas; each is a scheme and an authority and nothing else, as browsers send it."""
    if not isinstance(value, str):
        return value
    origins = tuple(origin.strip() for origin in value.split(",") if origin.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
            raise ValueError(f"{origin!r} is no origin such as https://app.example.com")
    return origins


def _proxies(value: object) -> object:
    """Addresses and networks with commas; not everybody, for then anybody could say to be anybody."""
    if not isinstance(value, str):
        return value
    given = tuple(item.strip() for item in value.split(",") if item.strip())
    for item in given:
        try:
            network = ip_network(item)
        except ValueError:
            raise ValueError(f"{item!r} is no address and no network such as 10.0.0.0/8") from None
        if network.prefixlen == 0:
            raise ValueError(f"{item!r} is everybody; name the proxies themselves")
    return given


def _is_loopback(host: str | None) -> bool:
    name = (host or "").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback or (mapped or address).is_unspecified


def _wait_s(value: object) -> object:
    """`0` never, `off` no limit (None), else a duration."""
    if isinstance(value, str) and value.strip() in ("0", "off"):
        return 0 if value.strip() == "0" else None
    try:
        return _duration_s(value)
    except ValueError:
        raise ValueError("must be 0, off, or a duration such as 20s, 10m, 6h or 7d") from None


Spelt = Annotated[str, Field(pattern=f"^{_DURATION.pattern}$", examples=["6h"])]
Duration = Annotated[int, BeforeValidator(_duration_s, json_schema_input_type=Spelt)]


class Settings(BaseSettings):
    """Every setting of a running relay; durations are whole seconds, lists are tuples."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        extra="ignore",
        frozen=True,
        validate_default=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr = Field(
        SecretStr("sqlite:///relay.db"), validation_alias=AliasChoices("RELAY_DATABASE_URL", "DATABASE_URL")
    )
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535, validation_alias=AliasChoices("RELAY_PORT", "PORT"))
    upstream_url: str = "https://api.useapi.net/v1/runwayml"
    upstream_token: SecretStr
    public_url: str | None = None
    admin_token: SecretStr
    secret_key: SecretStr | None = None
    accounts: Annotated[tuple[SeenAccount, ...], NoDecode, BeforeValidator(_accounts)] = ()
    validation: Literal["strict", "warn", "off"] = "strict"
    catalogue: Path | None = None
    metrics_port: int | None = Field(None, ge=1, le=65535)
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_proxies)] = ()
    allow_targets: Annotated[Allow, NoDecode, BeforeValidator(_allow)] = ""  # type: ignore[assignment]
    default_reply_url: SecretStr | None = None
    callback_inbox_token: SecretStr | None = None
    dropin_wait: Annotated[int | None, BeforeValidator(_wait_s)] = "10m"  # type: ignore[assignment]
    queue_per_token: int = Field(100, ge=1, le=1_000_000)
    queue_max: int = Field(10_000, ge=1, le=1_000_000)
    in_doubt: Literal["fail", "resubmit"] = "fail"
    in_doubt_after: Annotated[Duration, Field(ge=60)] = "6h"  # type: ignore[assignment]
    retry_bad_output: int = Field(0, ge=0, le=10)
    artifacts: str = "none"
    artifacts_before_final: bool = False
    artifacts_max_gb: int | None = Field(None, ge=1)
    retention_jobs: Annotated[Duration, Field(ge=86_400)] = "365d"  # type: ignore[assignment]
    retention_events: Annotated[Duration, Field(ge=86_400)] = "30d"  # type: ignore[assignment]
    retention_callbacks: Annotated[Duration, Field(ge=86_400)] = "30d"  # type: ignore[assignment]
    retention_artifacts: Annotated[Duration, Field(ge=3_600)] = "30d"  # type: ignore[assignment]
    sqlite_checkpoint: Literal["own", "external"] = "own"
    artifact_url_ttl: Annotated[Duration, Field(ge=60)] = "7d"  # type: ignore[assignment]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlSource(settings_cls, TOML_FILE)

    @field_validator("upstream_url", "public_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        plain = url.isprintable() and not set(url) & set(" ?#")
        # `port` raises a ValueError of its own for one that cannot be.
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain or parts.port == 0:
            raise ValueError("must be an http:// or https:// address without spaces, ? and #")
        if parts.username or parts.password:
            raise ValueError("must not have a user name or password in it")
        return url.rstrip("/")

    @field_validator("default_reply_url")
    @classmethod
    def _may_be_called(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is not None:
            try:
                check_url(url.get_secret_value(), info.data.get("allow_targets") or NOTHING)
            except TargetRefused as error:
                raise ValueError(f"cannot be called: {error.message}") from None
        return url

    @field_validator("public_url")
    @classmethod
    def _can_be_reached(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None or "upstream_url" not in info.data:  # which is then a problem of its own
            return url
        if _is_loopback(urlsplit(url).hostname) and not _is_loopback(urlsplit(info.data["upstream_url"]).hostname):
            raise ValueError("is a loopback address, where the upstream cannot call back; leave it out to poll instead")
        return url

    @field_validator("admin_token")
    @classmethod
    def _is_long(cls, token: SecretStr) -> SecretStr:
        if len(token.get_secret_value()) < ADMIN_TOKEN_MIN_CHARS:
            raise ValueError(f"must have at least {ADMIN_TOKEN_MIN_CHARS} characters")
        return token

    @field_validator("callback_inbox_token")
    @classmethod
    def _is_hard_to_guess(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not INBOX_TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError("must have 22 to 200 letters, digits, - or _, so that nobody guesses it")
        return token

    @field_validator("upstream_token")
    @classmethod
    def _is_there(cls, token: SecretStr) -> SecretStr:
        if not token.get_secret_value().strip():
            raise ValueError("must not be empty")
        return token

    @field_validator("secret_key")
    @classmethod
    def _is_key(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        database = info.data.get("database_url")
        if key is None and database is not None and database.get_secret_value().startswith(_POSTGRES):
            raise ValueError("is required with PostgreSQL, and is the same for all relays on one database")
        keys = key.get_secret_value().split(",") if key is not None else ()
        if not all(_SECRET_KEY.fullmatch(each.strip()) for each in keys):
            raise ValueError(
                "must be 32 bytes in URL-safe base64: 43 characters of A-Z, a-z, 0-9, - and _; "
                "older keys follow with commas"
            )
        return key

    @field_validator("artifacts")
    @classmethod
    def _is_storage(cls, text: str) -> str:
        if text != "none" and not re.fullmatch(r"file:///.+|s3://[^/]+(/.*)?", text):
            raise ValueError("must be none, file:///folder or s3://bucket/prefix")
        return text

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        file = text.removeprefix("sqlite:///")
        if not text.startswith(_POSTGRES) and (file == text or not file or file.startswith((":", "file:"))):
            raise ValueError("must be sqlite:///file.db, sqlite:////absolute/file.db or postgresql://…")
        return url

    @field_validator("sqlite_checkpoint")
    @classmethod
    def _is_of_sqlite(cls, checkpoint: str, info: ValidationInfo) -> str:
        database = info.data.get("database_url")
        if checkpoint == "external" and database is not None and database.get_secret_value().startswith(_POSTGRES):
            raise ValueError("external is for a SQLite database, and this one is PostgreSQL")
        return checkpoint

    @property
    def on_postgres(self) -> bool:
        return self.database_url.get_secret_value().startswith(_POSTGRES)

    @property
    def artifacts_path(self) -> Path:
        """The folder of the files that the relay keeps, or of those that are on their way to a bucket."""
        if self.artifacts.startswith("file://"):
            return Path(unquote(self.artifacts.removeprefix("file://")))
        return Path(f"{self.database_path}-artifacts")

    @property
    def database_path(self) -> Path:
        """The SQLite file, or with PostgreSQL where it would be: the relay's own other files lie there."""
        url = self.database_url.get_secret_value()
        return Path("relay.db" if self.on_postgres else url.removeprefix("sqlite:///"))

    @property
    def given_keys(self) -> str | None:
        """RELAY_SECRET_KEY as it was given: the current key, and older ones behind commas."""
        return self.secret_key.get_secret_value() if self.secret_key is not None else None

    @property
    def key_path(self) -> Path:
        """Where the key is kept that none was given for."""
        return Path(f"{self.database_path}.key")


class _OnlyGiven(Settings):
    """Settings from arguments alone: no environment, no file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load() -> Settings:
    """The settings of this process; `ConfigurationError` with every problem."""
    in_env_file, in_toml = _read(ENV_FILE, dotenv_values), _read(TOML_FILE, _toml)
    strangers = sorted(in_toml.keys() - Settings.model_fields.keys())
    problems = [
        *_unknown({*os.environ, *in_env_file}),
        *(Problem(f"{TOML_FILE}: {name}", "unknown", "is not a setting of the relay") for name in strangers),
    ]
    return _checked(Settings, {}, problems, _of_this_place)


def given(**values: Any) -> Settings:
    """Settings from these values alone, by their names in lower case: for demo, dev and tests."""
    unknown = sorted(values.keys() - Settings.model_fields.keys())
    problems = [Problem(f"{PREFIX}{name.upper()}", "unknown", "is not a setting") for name in unknown]
    return _checked(_OnlyGiven, values, problems, lambda settings: ())


def load_catalogue(path: Path | None) -> catalogue.Catalogue:
    """The built-in catalogue, with what the file at `path` adds and overrides."""
    texts = [files("relay.core").joinpath(catalogue.BUILT_IN).read_text("utf-8")]
    if path is not None:
        try:
            texts.append(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"RELAY_CATALOGUE: {path} cannot be read: {error}") from error
    return catalogue.parse(*texts)


def names() -> tuple[str, ...]:
    """The names of all settings in the environment."""
    return tuple(f"{PREFIX}{name.upper()}" for name in Settings.model_fields) + tuple(sorted(_OF_CLIENTS))


def _toml(name: str) -> Mapping[str, object]:
    return tomllib.loads(Path(name).read_text("utf-8")) if Path(name).is_file() else {}


def _read(name: str, parse: Callable[[str], Mapping[str, object]]) -> Mapping[str, object]:
    """The settings in a file, none where there is no file."""
    try:
        return parse(name)
    except (OSError, ValueError) as error:  # what is not UTF-8, or not TOML, is a ValueError
        raise ConfigurationError(f"{name} cannot be read: {error}") from None


def _unknown(present: set[str]) -> Iterator[Problem]:
    known = set(names())
    for name in sorted(present):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            yield Problem(name, "unknown", "is not a setting of the relay")


def _of_this_place(settings: Settings | None) -> Iterator[Problem]:
    """What forbids a SQLite file here: more than one process, or a disk that is emptied at each restart."""
    if settings is not None and settings.on_postgres:
        return
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "0", "1"):
        yield Problem("WEB_CONCURRENCY", "one_process", "must be 1: one SQLite file serves one process")
    platform = next((_VANISHING[name] for name in _VANISHING if os.environ.get(name)), None)
    if platform is not None and settings is not None and (platform == "Heroku" or _beside_root(settings.database_path)):
        message = (
            f"{settings.database_path} lies on a disk that {platform} empties at every restart, "
            "and jobs that were paid for would be lost: use PostgreSQL (postgresql://…)"
        )
        volume = "" if platform == "Heroku" else ", or sqlite:////… on a volume that stays"
        yield Problem("RELAY_DATABASE_URL", "vanishing_disk", message + volume)


def _beside_root(path: Path) -> bool:
    """Whether a file lies, or would lie, on the same disk as the system itself, and so on no volume."""
    there = next(place for place in path.resolve().parents if place.exists())
    return there.stat().st_dev == Path("/").stat().st_dev


def _checked(
    kind: type[Settings],
    values: Mapping[str, Any],
    problems: list[Problem],
    of_place: Callable[[Settings | None], Iterable[Problem]],
) -> Settings:
    settings = None
    try:
        settings = kind(**values)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(found["loc"][0]) if found["loc"] else "settings"
            name = name if name.isupper() else f"{PREFIX}{name.upper()}"
            message = "is required" if found["type"] == "missing" else found["msg"].removeprefix("Value error, ")
            problems.append(Problem(name, found["type"], message))
    problems += of_place(settings)
    if settings is None or problems:
        lines = "\n".join(f"  {problem.field} {problem.message}" for problem in problems)
        raise ConfigurationError(f"the relay cannot start with these settings:\n{lines}", problems=problems)
    return settings
