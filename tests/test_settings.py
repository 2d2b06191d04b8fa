"""Settings are read once, from four places in a fixed order, and every problem is told at once, without a secret."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from relay import settings as config
from relay.core.accounts import SeenAccount
from relay.errors import ConfigurationError
from relay.settings import Settings, given, load

ADMIN = "an-admin-token-of-24-characters"
REQUIRED = {"upstream_token": "the-upstream-token", "admin_token": ADMIN}
KEY = "A" * 43
VOLUME = Path("/dev/shm")  # noqa: S108 # a file system of its own


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and no setting in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("RELAY_") or name in {"DATABASE_URL", "PORT", "WEB_CONCURRENCY", *config._VANISHING}:
            monkeypatch.delenv(name)


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def refused(**values: Any) -> str:
    """What is said of these settings, beside those that are required."""
    with pytest.raises(ConfigurationError) as error:
        given(**REQUIRED | values)
    return error.value.message


def test_two_tokens_are_enough_and_the_rest_has_the_contracts_defaults() -> None:
    settings = given(**REQUIRED)
    assert (settings.database_url.get_secret_value(), settings.host, settings.port) == (
        "sqlite:///relay.db",
        "127.0.0.1",
        8080,
    )
    assert (settings.upstream_url, settings.public_url) == ("https://api.useapi.net/v1/runwayml", None)
    assert (settings.queue_per_token, settings.queue_max, settings.validation) == (100, 10_000, "strict")
    assert (settings.in_doubt_after, settings.artifact_url_ttl) == (6 * 3_600, 7 * 86_400)
    assert (settings.accounts, settings.secret_key, settings.allow_targets.hosts) == ((), None, frozenset())


def test_only_a_sqlite_database_is_checkpointed_by_another_program() -> None:
    said = refused(database_url="postgresql://relay@db/relay", secret_key=KEY, sqlite_checkpoint="external")
    assert "RELAY_SQLITE_CHECKPOINT external is for a SQLite database, and this one is PostgreSQL" in said
    assert given(**REQUIRED, sqlite_checkpoint="external").sqlite_checkpoint == "external"


def test_every_problem_is_told_in_one_message_and_none_of_them_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(
        monkeypatch,
        RELAY_ADMIN_TOKEN="too-short-hush",
        RELAY_DATABASE_URL="mysql://me:hush@host/db",
        RELAY_SECRET_KEY="hush-hush-hush",
        RELAY_UPSTREAM_URL="https://me:hush@api.example.com",
        RELAY_PORT="http",
        RELAY_IN_DOUBT_AFTER="six hours",
        RELAY_ACCOUNTS="me@example.com",
        RELAY_ALLOW_TARGETS="10.0.0.0/99",
        RELAY_DEFAULT_REPLY_URL="http://10.0.0.1/hush",
        RELAY_VALIDATION="lenient",
        RELAY_TYPO="hush",
        WEB_CONCURRENCY="4",
    )
    with pytest.raises(ConfigurationError) as error:
        load()
    told = {problem.field for problem in error.value.problems}
    assert told == {name for name in os.environ if name.startswith(("RELAY_", "WEB_"))} | {"RELAY_UPSTREAM_TOKEN"}
    for problem in error.value.problems:
        assert f"{problem.field} {problem.message}" in error.value.message
    assert "hush" not in f"{error.value.message} {error.value!r} {error.value.problems}"
    assert error.value.__cause__ is None


def test_no_secret_is_printed() -> None:
    url = "https://hook.example.com/hush"
    settings = given(upstream_token="hush", admin_token=f"hush-{ADMIN}", secret_key=KEY, default_reply_url=url)
    assert "hush" not in f"{settings!r} {settings}"
    assert KEY not in repr(settings)


@pytest.mark.parametrize("name", ["RELAY_UPSTREAM_TOKN", "relay_upstream_tokn", "RELAY_"])
def test_an_unknown_name_is_refused_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for token, value in REQUIRED.items():
        monkeypatch.setenv(f"RELAY_{token.upper()}", value)
    load()
    Path(".env").write_text(f"{name}=1\n")
    with pytest.raises(ConfigurationError, match=f"{name} is not a setting of the relay"):
        load()
    Path(".env").unlink()
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=f"{name} is not a setting of the relay"):
        load()


def test_an_unknown_key_of_the_toml_file_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("relay.toml").write_text('upstream_tokn = "hush"\nadmin_token = "an-admin-token-of-24-characters"\n')
    with pytest.raises(ConfigurationError, match=r"relay\.toml: upstream_tokn is not a setting") as error:
        load()
    assert "RELAY_UPSTREAM_TOKEN is required" in error.value.message
    assert "hush" not in error.value.message


def test_what_the_client_commands_read_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RELAY_URL="http://127.0.0.1:8080", RELAY_TOKEN="t", RELAY_UPSTREAM_TOKEN="u")
    monkeypatch.setenv("RELAY_ADMIN_TOKEN", ADMIN)
    assert load().port == 8080


def test_the_environment_goes_before_the_env_file_and_that_before_the_toml_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [f'{name} = "{value}"' for name, value in REQUIRED.items()]
    Path("relay.toml").write_text(
        "\n".join([*lines, 'host = "toml"', "port = 1", "queue_max = 1", 'validation = "warn"'])
    )
    Path(".env").write_text("RELAY_HOST=dotenv\nRELAY_PORT=2\nRELAY_QUEUE_MAX=2\n")
    environment(monkeypatch, RELAY_HOST="environment", RELAY_PORT="3")
    settings = load()
    assert (settings.host, settings.port) == ("environment", 3)
    assert (settings.queue_max, settings.validation) == (2, "warn")
    assert settings.admin_token.get_secret_value() == ADMIN


def test_a_platforms_own_names_are_taken_and_ours_go_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RELAY_UPSTREAM_TOKEN="t", RELAY_ADMIN_TOKEN=ADMIN)
    environment(monkeypatch, PORT="5000", DATABASE_URL="sqlite:///platform.db")
    assert (load().port, load().database_path) == (5000, Path("platform.db"))
    environment(monkeypatch, RELAY_PORT="6000", RELAY_DATABASE_URL="sqlite:////srv/relay.db")
    assert (load().port, load().database_path) == (6000, Path("/srv/relay.db"))


def test_given_settings_know_no_environment_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(
        monkeypatch, RELAY_PORT="1", PORT="2", DATABASE_URL="sqlite:///real.db", RELAY_UPSTREAM_URL="https://real"
    )
    environment(monkeypatch, RELAY_TYPO="1", WEB_CONCURRENCY="9")
    Path(".env").write_text("RELAY_HOST=dotenv\n")
    Path("relay.toml").write_text("not even TOML")
    settings = given(**REQUIRED)
    assert (settings.host, settings.port, settings.database_url.get_secret_value()) == (
        "127.0.0.1",
        8080,
        "sqlite:///relay.db",
    )
    assert settings.upstream_url == "https://api.useapi.net/v1/runwayml"


def test_a_given_name_that_is_no_setting_is_refused() -> None:
    assert "RELAY_PROT is not a setting" in refused(prot=1)


@pytest.mark.parametrize(
    ("name", "content"),
    [("relay.toml", b"port = "), ("relay.toml", b"\xff"), (".env", b"RELAY_HOST=\xff\n")],
    ids=["not TOML", "TOML not UTF-8", "env not UTF-8"],
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{name} cannot be read"):
        load()


@pytest.mark.parametrize("count", ["", "0", "1"])
def test_one_process_is_what_a_platform_may_ask_for(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    environment(monkeypatch, RELAY_UPSTREAM_TOKEN="t", RELAY_ADMIN_TOKEN=ADMIN, WEB_CONCURRENCY=count)
    load()


def test_postgresql_serves_as_many_processes_as_a_platform_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RELAY_UPSTREAM_TOKEN="t", RELAY_ADMIN_TOKEN=ADMIN, WEB_CONCURRENCY="4", DYNO="web.1")
    environment(monkeypatch, RELAY_SECRET_KEY=KEY, DATABASE_URL="postgres://u:hush@host/db")
    assert load().on_postgres


@pytest.mark.parametrize(
    ("name", "platform"),
    [("DYNO", "Heroku"), ("RENDER", "Render"), ("FLY_APP_NAME", "Fly"), ("K_SERVICE", "Cloud Run")],
)
def test_a_database_file_on_a_disk_that_vanishes_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, platform: str
) -> None:
    environment(monkeypatch, RELAY_UPSTREAM_TOKEN="t", RELAY_ADMIN_TOKEN=ADMIN)
    environment(monkeypatch, RELAY_DATABASE_URL="sqlite:////not-made-yet/relay.db", **{name: "x"})
    with pytest.raises(ConfigurationError) as error:
        load()
    assert [problem.rule for problem in error.value.problems] == ["vanishing_disk"]
    assert f"{platform} empties at every restart" in error.value.message
    assert "use PostgreSQL" in error.value.message


@pytest.mark.skipif(not VOLUME.is_dir(), reason=f"there is no {VOLUME}, a file system of its own, here")
def test_a_volume_may_hold_the_database_where_there_are_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RELAY_UPSTREAM_TOKEN="t", RELAY_ADMIN_TOKEN=ADMIN)
    environment(monkeypatch, RELAY_DATABASE_URL=f"sqlite:///{VOLUME}/relay/relay.db", RENDER="true")
    load()
    environment(monkeypatch, DYNO="web.1")
    with pytest.raises(ConfigurationError, match="Heroku empties"):
        load()


@pytest.mark.parametrize("text", ["everybody", "*", "0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/33", "proxy"])
def test_proxies_are_addresses_and_networks_and_never_everybody(text: str) -> None:
    assert "RELAY_TRUSTED_PROXIES " in refused(trusted_proxies=f"127.0.0.1,{text}")


def test_proxies_are_listed_with_commas() -> None:
    assert given(**REQUIRED, trusted_proxies=" 10.0.0.0/8, ::1 ,").trusted_proxies == ("10.0.0.0/8", "::1")


def test_older_keys_stand_behind_the_current_one() -> None:
    assert given(**REQUIRED, secret_key=f"{KEY},{KEY}= ,{KEY}").given_keys == f"{KEY},{KEY}= ,{KEY}"
    assert "RELAY_SECRET_KEY must be 32 bytes" in refused(secret_key=f"{KEY},")


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), (" 10m ", 600), ("6 h", 21_600), ("7d", 604_800)])
def test_durations_have_a_unit(text: str, seconds: int) -> None:
    assert given(**REQUIRED, in_doubt_after=text).in_doubt_after == seconds


@pytest.mark.parametrize("text", ["", "60", "1.5h", "-1h", "1w", "h", "59s", 3_600, "9" * 20 + "s", "\u0661h"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    assert "RELAY_IN_DOUBT_AFTER" in refused(in_doubt_after=text)


@pytest.mark.parametrize(("text", "wait_s"), [("0", 0), ("off", None), ("10m", 600)])
def test_the_wait_of_the_drop_in_door_may_be_never_or_without_limit(text: str, wait_s: int | None) -> None:
    assert given(**REQUIRED, dropin_wait=text).dropin_wait == wait_s


def test_accounts_are_emails_with_slots() -> None:
    settings = given(**REQUIRED, accounts=" a+b@example.com=2, c=d@example.com=10 ,")
    assert settings.accounts == (SeenAccount("a+b@example.com", 2), SeenAccount("c=d@example.com", 10))


@pytest.mark.parametrize(
    "text", ["me", "me@x.org", "me@x.org=", "me@x.org=0", "me@x.org=11", "=2", "a@x=1,a@x=2", "a@x=-1"]
)
def test_what_are_no_accounts_is_refused(text: str) -> None:
    assert "RELAY_ACCOUNTS must" in refused(accounts=text)


def test_allowed_targets_are_networks_and_exact_hosts() -> None:
    allow = given(**REQUIRED, allow_targets="10.1.0.0/16, 127.0.0.1:9000").allow_targets
    assert ip_network("10.1.0.0/16") in allow.networks
    assert len(allow.hosts) == 1


@pytest.mark.parametrize("text", ["10.0.0.0/99", "127.0.0.1", "127.0.0.0/8", "nonsense"])
def test_targets_that_cannot_be_allowed_are_refused(text: str) -> None:
    assert "RELAY_ALLOW_TARGETS " in refused(allow_targets=text)


LOOPBACKS = [
    "http://127.0.0.1:8080", "http://localhost", "http://LOCALHOST.", "http://a.localhost", "http://127.9.9.9",
    "http://[::1]:8080", "http://0.0.0.0:8080", "http://[::ffff:127.0.0.1]",
]  # fmt: skip


@pytest.mark.parametrize("url", LOOPBACKS)
def test_a_loopback_public_address_is_refused_unless_the_upstream_is_loopback_too(url: str) -> None:
    assert "RELAY_PUBLIC_URL is a loopback address" in refused(public_url=url)
    assert given(**REQUIRED, public_url=url, upstream_url="http://127.0.0.1:9000/v1/runwayml").public_url == url


def test_a_wrong_upstream_address_is_one_problem_and_not_two() -> None:
    message = refused(public_url="http://127.0.0.1", upstream_url="ftp://x")
    assert ("RELAY_UPSTREAM_URL" in message, "RELAY_PUBLIC_URL" in message) == (True, False)


@pytest.mark.parametrize(
    "url",
    ["relay.example.com", "ftp://x", "https://", "https://x?a=1", "https://x#a", "https://u:p@x", "https://x:99999",
     "https://x:0", "https://x y", "https://x\n", "http://["],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert "RELAY_PUBLIC_URL" in refused(public_url=url)
    assert "RELAY_UPSTREAM_URL" in refused(upstream_url=url)


def test_a_trailing_slash_is_taken_away() -> None:
    assert given(**REQUIRED, public_url="https://relay.example.com/").public_url == "https://relay.example.com"


@pytest.mark.parametrize(
    "url", ["", "sqlite://relay.db", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=ro", "relay.db"]
)
def test_what_is_no_database_file_is_refused(url: str) -> None:
    assert "RELAY_DATABASE_URL must be sqlite:///file.db" in refused(database_url=url)


@pytest.mark.parametrize("key", ["", "short", "A" * 44, KEY[:-1] + "+", "A" * 42])
def test_a_key_that_is_not_32_bytes_is_refused(key: str) -> None:
    assert "RELAY_SECRET_KEY must be 32 bytes" in refused(secret_key=key)


def test_a_key_is_taken_with_or_without_its_padding() -> None:
    for key in (KEY, f"{KEY}=", f"{KEY}\n"):
        settings = given(**REQUIRED, secret_key=key)
        assert settings.secret_key is not None
        assert settings.secret_key.get_secret_value() == key


@pytest.mark.parametrize(
    ("name", "value"),
    [("admin_token", "a" * 23), ("upstream_token", " "), ("port", 65_536), ("port", -1), ("queue_max", 0)],
)
def test_values_have_their_bounds(name: str, value: object) -> None:
    assert f"RELAY_{name.upper()} " in refused(**{name: value})


@hypothesis_given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=30), max_size=5))
def test_any_text_in_any_setting_is_taken_or_refused_in_words(values: dict[str, str]) -> None:
    try:
        given(**values)
    except ConfigurationError as error:
        strangers = {problem.field for problem in error.problems} - set(config.names())
        assert not strangers


def test_a_catalogue_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "gen4.5" in str(config.load_catalogue(None).as_json())
    with pytest.raises(ConfigurationError, match=r"RELAY_CATALOGUE: .*missing\.toml cannot be read"):
        config.load_catalogue(tmp_path / "missing.toml")
