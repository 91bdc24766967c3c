"""Files from the web: whole, of the wanted content, and below a limit of size, or not at all."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cellbasin.cli.console import CommandError
from cellbasin.parallel import Tell, ignore_progress
from cellbasin.version import VERSION

LARGEST = 500 * 10**6  # bytes
_TIMEOUT = 30.0  # seconds without an answer
_CHUNK = 1 << 16


def is_address(text: str) -> bool:
    """Whether a file's name is an address of the web.

    >>> is_address("https://example.org/a.safetensors"), is_address("C:/a.safetensors")
    (True, False)
    """
    return text.lower().startswith(("http://", "https://"))


def file_name(address: str) -> str:
    """What a file is called there.

    >>> file_name("https://example.org/models/mine%20too.safetensors?download=1")
    'mine too.safetensors'
    """
    return Path(unquote(urlsplit(address).path)).name


def check_sha256(text: str) -> str:
    """A checksum as hexadecimal digits of lower case; raises CommandError for what is none."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise CommandError(f"found the checksum {text!r}, expected the 64 hexadecimal digits of a SHA-256")
    return text.lower()


def fetch(address: str, target: Path, sha256: str, tell: Tell = ignore_progress) -> None:
    """Write what is at an address to `target`.

    sha256: of the wanted content; tell: called with the part 0..1 that is there. Raises CommandError, and leaves no
    file, when the address does not answer, or sends more than `LARGEST` bytes, too few, or something else.
    """
    request = urllib.request.Request(address, headers={"User-Agent": f"cellbasin/{VERSION}"})
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, target.open("wb") as file:
            expected = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(_CHUNK):
                size += len(chunk)
                if max(size, expected) > LARGEST:
                    raise CommandError(f"{address}: found more than {LARGEST / 1e6:.0f} MB, expected a weights file")
                file.write(chunk)
                digest.update(chunk)
                tell(size / expected if expected else 0.0)
        if size < expected:
            raise CommandError(f"{address}: found {size} of {expected} bytes before the connection ended; try again")
        if digest.hexdigest() != sha256:
            raise CommandError(
                f"{address}: found a file with the SHA-256 {digest.hexdigest()}, expected {sha256}: "
                "it has been damaged or replaced, or the checksum is another file's"
            )
    except (OSError, HTTPException, ValueError) as error:
        target.unlink(missing_ok=True)
        raise CommandError(f"{address}: cannot be fetched ({error}); expected a file there: check it") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
