"""Keys, region and server as the AWS tools' own files name them: ``~/.aws/config`` and ``~/.aws/credentials``.

The environment goes before the files, as with those tools. Keys that a profile doesn't hold but says how to get (single
sign-on, a role, a program) are got by boto3, where that is installed. Nothing of a file is ever shown.
"""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ecgstore.errors import ConfigError, MissingExtra, StoreError, need

#: Larger ones are none of these files.
MOST_BYTES = 1 << 20

#: A profile with one of these gets its keys elsewhere, whatever keys it holds; with a program, where it holds none.
_ELSEWHERE = ("role_arn", "sso_session", "sso_start_url", "login_session")
_PROGRAM = "credential_process"
_KEYS = {
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}
_NESTED = re.compile(r"^\s*endpoint_url\s*=\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Access:
    """``config`` is what the environment leaves open, by obstore's names; ``endpoint`` the server's address, or "".

    ``session`` is boto3's, where keys have to be got by it.
    """

    config: dict[str, str]
    endpoint: str
    session: Any = None


def access() -> Access:
    """How to get at a bucket; raises ConfigError (a file, a profile), StoreError (boto3 gets no keys)."""
    environment = os.environ
    named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    name = named or "default"
    config_file = _file("AWS_CONFIG_FILE", "config")
    config, credentials = _read(config_file), _read(_file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))
    section = "default" if name == "default" else f"profile {name}"
    if named and named != "default" and section not in config and name not in credentials:
        known = sorted(
            {one.removeprefix("profile ") for one in config if one == "default" or one.startswith("profile ")}
        )
        known = sorted({*known, *credentials})[:20]
        raise ConfigError(
            f"there is no profile {name[:80]}",
            where=config_file,
            fix=f"set AWS_PROFILE to one that is there: {', '.join(known)}"
            if known
            else "unset AWS_PROFILE, or make it",
        )
    about = config.get(section, {})
    found: dict[str, str] = {}
    if "region" in about and not (environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")):
        found["region"] = about["region"]
    endpoint = next((its for key in _ENDPOINTS if (its := environment.get(key))), "")
    if not endpoint and environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        services = config.get(f"services {about.get('services', '')}", {})
        nested = _NESTED.search(services.get("s3", ""))
        endpoint = nested[1] if nested else about.get("endpoint_url", "")
        if endpoint:
            found["endpoint"] = endpoint
    if environment.get("AWS_ACCESS_KEY_ID") or environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return Access(found, endpoint)
    about = about | credentials.get(name, {})
    keys = {ours: about[theirs] for ours, theirs in _KEYS.items() if about.get(theirs)}
    way = next((one for one in _ELSEWHERE if about.get(one)), None) or (not keys and about.get(_PROGRAM) and _PROGRAM)
    if way:
        return Access(found, endpoint, _session(name, way))
    if keys and not {"access_key_id", "secret_access_key"} <= set(keys):
        missing = _KEYS["secret_access_key" if "access_key_id" in keys else "access_key_id"]
        raise ConfigError(f"the profile {name} has no {missing}", where=config_file.parent)
    return Access(found | keys, endpoint)


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def _file(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or f"~/.aws/{name}").expanduser()


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Sections of a file; none where there is no file."""
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    if len(content) > MOST_BYTES:
        _refuse(path, f"more than {MOST_BYTES} bytes")
    try:
        parser.read_string(content.decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        number = getattr(error, "lineno", None) or next((n for n, _ in getattr(error, "errors", ())), None)
        _refuse(path, f"no sense in line {number}" if number else "no sense")
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _refuse(path: Path, got: str) -> NoReturn:
    raise ConfigError("a file of the AWS tools can't be read", where=path, got=got, fix="mend it, or move it away")


def _session(profile: str, way: str) -> Any:
    by_hand = f"set the keys in the environment: `aws configure export-credentials --profile {profile} --format env`"
    try:
        boto3 = need("boto3", "share")
    except MissingExtra:
        raise ConfigError(
            f"the profile {profile} has no keys, but {way}, which needs boto3", fix=f"pip install boto3, or {by_hand}"
        ) from None
    try:
        session = boto3.session.Session(profile_name=profile)
        session.get_credentials().get_frozen_credentials()
    except Exception as error:  # a program, a server and a page in the browser have a say in it
        raise StoreError(
            f"the profile {profile} has no keys, and {way} gets none",
            got=" ".join(str(error).split())[:200],
            fix=f"sign in again, or {by_hand}",
        ) from None
    return session
