"""Downloads over unsafe networks: TLS verified, tried again, resumed and checked."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from stedm.errors import UserError
from stedm.progress import progress
from stedm.provenance import checksum

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger("stedm")

Result = TypeVar("Result")

ATTEMPTS = 5
TIMEOUT = (10, 60)
"""Seconds to connect, and between two pieces of an answer."""
CHUNK = 2**16


class _Again(Exception):
    """Something that may be over in a moment; the text says what."""


class Web:
    """Asks one or several servers; answers that fail for a moment (5xx, timeouts, half a body) are asked again.

    Parameters
    ----------
    auth
        User and password, sent to every server asked.
    pause
        Seconds before the second attempt; doubled before each next one.
    """

    def __init__(self, auth: tuple[str, str] | None = None, *, pause: float = 1.0) -> None:
        import requests

        self._requests, self._session, self._pause = requests, requests.Session(), pause
        # Without this, a ~/.netrc would replace the credentials given.
        self._session.auth = auth or (lambda request: request)

    def json(self, url: str, **params: Any) -> Any:
        """Return the JSON that a server answers.

        Raises
        ------
        UserError
            If the server refuses, cannot be reached, has a bad certificate, or does not answer JSON.
        """

        def ask() -> Any:
            answer = self._get(url, params=params)
            try:
                return answer.json()
            except ValueError:
                raise UserError(f"{url}: answered no JSON; correct the server's address.") from None

        return self._persist(url, ask)

    def download(self, url: str, path: Path, *, size: int | None = None, md5: str | None = None, **params: Any) -> None:
        """Download a file; it appears whole or not at all, and an interrupted download goes on where it broke off.

        Parameters
        ----------
        url, params
            What to ask for.
        path
            Where it goes; ``<path>.part`` holds what has come so far.
        size, md5
            Bytes and checksum, where known.

        Raises
        ------
        UserError
            As :meth:`json`, and if size or checksum are others, or the disk is full.
        """
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._persist(url, lambda: self._resume(url, part, size, params))
            found = checksum(part, "md5") if md5 else None
            if found != md5:
                part.unlink()
                raise UserError(
                    f"{url}: its MD5 is {found}, not {md5}; the file is another one or was damaged on its way."
                )
            part.replace(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); make room and run again.") from error

    def _persist(self, url: str, work: Callable[[], Result]) -> Result:
        said = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                log.info("%s: %s; trying again", url, said)
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                return work()
            except self._requests.exceptions.SSLError as error:
                raise UserError(
                    f"{url}: the server's certificate cannot be verified ({_innermost(error)}); if it is your "
                    "institution's own, name its certificates in the environment variable REQUESTS_CA_BUNDLE."
                ) from None
            except self._requests.exceptions.RequestException as error:
                said = _innermost(error)
            except _Again as error:
                said = str(error)
        raise UserError(
            f"{url}: failed {ATTEMPTS} times ({said}); run again later, which goes on from what has come, "
            "or ask who runs the server."
        )

    def _get(self, url: str, **how: Any) -> Response:
        answer = self._session.get(url, timeout=TIMEOUT, **how)
        if answer.status_code >= 500 or answer.status_code == 429:
            raise _Again(f"the server answered {answer.status_code}")
        if answer.status_code in (401, 403):
            raise UserError(
                f"{url}: refused ({answer.status_code}: {_detail(answer)}); check user, password and rights."
            )
        if answer.status_code >= 400 and answer.status_code != 416:
            raise UserError(f"{url}: answered {answer.status_code} ({_detail(answer)}); correct what is asked for.")
        return answer

    def _resume(self, url: str, part: Path, size: int | None, params: dict[str, Any]) -> None:
        # The version of which there is a part; a newer one must not be appended to it.
        tag = part.with_suffix(".etag.part")
        have = part.stat().st_size if part.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if tag.is_file():
                headers["If-Range"] = tag.read_text()
        with self._get(url, params=params, headers=headers, stream=True) as answer:
            if answer.status_code == 416:
                part.unlink()
                raise _Again("there is no more of it than has come")
            span = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            resumed = answer.status_code == 206 and span is not None and int(span[1]) == have
            length = answer.headers.get("Content-Length")
            total = int(span[2]) if resumed else int(length) if length else size
            if None not in (total, size) and total != size:
                raise UserError(f"{url}: the server has {total} bytes of it, {size} were expected; ask who runs it.")
            if etag := answer.headers.get("ETag"):
                tag.write_text(etag)
            done, unit = have if resumed else 0, 2**20
            with (
                part.open("ab" if resumed else "wb") as file,
                progress(part.stem, (total or 0) // unit, "MB", done=done // unit) as counter,
            ):
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    counter.advance((done + len(chunk)) // unit - done // unit)
                    done += len(chunk)
        if total is not None and done != total:
            raise _Again(f"{done} of {total} bytes came")
        tag.unlink(missing_ok=True)


def _detail(answer: Response) -> str:
    """Return what a server says of an error, as Django's REST framework does: ``{"detail": …}``."""
    try:
        return str(answer.json()["detail"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return answer.reason or "no message"


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (" ".join(str(error).split()) or type(error).__name__)[:160].rstrip(".")


def is_loopback(url: str) -> bool:
    """Say whether an address is of this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
