"""URLs of images and data sets: what is one, what of it may be shown, and where it is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from trainer.errors import DataError

SCHEMES = ("https", "http", "s3")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Parameters of a query that let somebody in; the URL names the same file without them.
_SECRET = re.compile(
    r"x-amz-.*|x-goog-.*|sig|signature|(access_?|auth_?|id_?|sas_?)?token|jwt|api[-_]?key|pass(word|wd)?|pwd|(client_?)?secret",
    re.IGNORECASE,
)
# What stands beside a signature, which changes with it: of CloudFront, of old S3 and GCS URLs, of Azure.
_SIGNED = re.compile(
    r"expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|s[eprtsv]|srt|spr|sip|ske|skt|sks|skv|skoid|sktid",
    re.IGNORECASE,
)


def is_url(text: str) -> bool:
    """Whether a text is a URL, of whatever kind, and no path."""
    return _URL.match(text) is not None


def source_of(text: str, folder: Path) -> Path | str:
    """What a text names: a URL as it is, or a path below a folder."""
    return text if is_url(text) else Path(os.path.normpath(folder / text))


def shown(source: Path | str) -> str:
    """What may be shown and kept of a path or URL."""
    return public_url(source) if isinstance(source, str) and is_url(source) else str(source)


def public_url(url: str) -> str:
    """A URL without user, password, tokens and signatures: what names the file, and is shown and kept."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme == "s3":  # anything may stand in a key
        return f"s3://{rest}"
    rest = rest.partition("#")[0]
    place, mark, query = rest.partition("?")
    host, slash, path = place.partition("/")
    host = host.rpartition("@")[2]
    if mark:
        parts = query.split("&")
        names = [unquote(part.partition("=")[0]) for part in parts]
        is_signed = any(re.fullmatch("sig|signature", name, re.IGNORECASE) for name in names)
        kept = [
            part
            for part, name in zip(parts, names, strict=True)
            if not _SECRET.fullmatch(name) and not (is_signed and _SIGNED.fullmatch(name))
        ]
        mark, query = ("?", "&".join(kept)) if kept else ("", "")
    return f"{scheme}://{host}{slash}{path}{mark}{query}"


def url_problem(url: str) -> str | None:
    """What is wrong with a URL, to be said behind it; None where it can be asked for."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SCHEMES:
        return f"{scheme}:// is not read; give an https, http or s3 URL, or a file"
    if scheme.lower() == "s3":
        return None if rest.partition("/")[0] else "it names no bucket; write s3://BUCKET/KEY"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError where it is none
    except ValueError as error:
        return f"it is no URL: {error}"
    return None if parts.hostname else "it names no host"


def refuse_bad(url: str) -> None:
    """Raise DataError where a URL cannot be asked for."""
    if problem := url_problem(url):
        raise DataError(f"{public_url(url)!r}: {problem}")


def bucket_and_key(url: str) -> tuple[str, str]:
    """Those of an s3 URL; an empty key for the bucket itself."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def last_name(url: str) -> str:
    """The last name in the path of a URL, as a file may be called; empty where there is none."""
    path = bucket_and_key(url)[1] if url.lower().startswith("s3:") else unquote(urlsplit(url).path)
    return path.rstrip("/").rpartition("/")[2]


def joined(base: str, name: str) -> str:
    """The URL of a file that lies beside the one at a URL, or below that: name is a path, such as cat/1.jpg."""
    if is_url(name):
        return name
    if base.lower().startswith("s3:"):
        bucket, key = bucket_and_key(base)
        return f"s3://{bucket}/{os.path.normpath('/'.join(('', key.rpartition('/')[0], name))).lstrip('/')}"
    return urljoin(base, quote(name))
