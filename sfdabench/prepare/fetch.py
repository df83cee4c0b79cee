"""Data sets that anyone may download: fetched, checked, unpacked. Others ask for a registration.

Zenodo states the size and the MD5 sum of each file in the record that the file belongs to; they
are asked for over https at each download, so no sum stands here that nobody could check. That
guards against a broken transfer and a damaged copy, not against the publisher.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import stat
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from sfdabench import __version__
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.files import held, remove
from sfdabench.core.paths import check_writable

ZENODO = "https://zenodo.org"
TIMEOUT = 60.0  # ours: seconds without a byte
CHUNK = 2**20
SUMS = ("md5", "sha256")
SAY_EVERY = 10.0  # ours: seconds between lines of progress
MAX_NAME = 255  # bytes, of every common file system
ENCRYPTED = 0x1  # of a member's flags
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Download:
    """A zip archive in a record of Zenodo."""

    record: int
    file: str


OPEN: Mapping[str, Download] = {"chaos": Download(3431873, "CHAOS_Train_Sets.zip")}


@dataclass(frozen=True)
class _File:
    """What the record states of a file: its name, its bytes, and its sum as "md5:..."."""

    key: str
    size: int
    checksum: str


@dataclass(frozen=True)
class _Record:
    files: list[_File]


def fetch(name: str, out: Path, *, say: Say = print, base: str = ZENODO) -> Path:
    """Download a data set and unpack it; its folder, `out`/`name`.

    What lies there is not fetched again: a folder with content, a whole archive, the first part
    of one. The archive is left beside the folder. base: address of a mirror of Zenodo.
    Raises BadInput for a data set that is not open and for `out` that cannot be written, has too
    little room, or a file of that name; DataFault for an address that does not answer or breaks
    off, and for an archive that is damaged or would write outside its folder.
    """
    if name not in OPEN:
        raise BadInput(
            f"{name}: not openly available (open: {', '.join(OPEN)}); "
            f"`sfdabench data describe {name}` says how to obtain it"
        )
    folder = out / name
    check_writable(out, "--out")
    if folder.is_file():
        raise BadInput(f"{folder}: a file where the folder should be; rename it")
    with held(folder, say):
        if folder.is_dir() and any(folder.iterdir()):
            say(f"{folder}: there already; `sfdabench data verify {name}` looks for faults in it")
            return folder
        archive = _download(OPEN[name], out, say, base)
        _unpack(archive, folder)
    say(f"{folder}: complete; {archive} is no longer needed")
    return folder


def _download(wanted: Download, out: Path, say: Say, base: str) -> Path:
    """The whole archive in `out`, its sum checked; what is there already is not fetched again."""
    record = f"{base}/api/records/{wanted.record}"
    stated = _stated(record, wanted.file)
    whole, part = out / wanted.file, out / f"{wanted.file}.part"
    if whole.exists():
        if (given := _sum(whole, stated)) != stated.checksum:
            raise DataFault(
                f"{whole}: its sum is {given}, not {stated.checksum} as {record} states; "
                "remove or rename it, then run again"
            )
        return whole
    url = f"{base}/records/{wanted.record}/files/{quote(wanted.file)}?download=1"
    check_writable(out, "--out", stated.size - _size(part))
    _continue(url, part, stated.size, say)
    if (given := _sum(part, stated)) != stated.checksum:
        part.unlink()
        raise DataFault(
            f"{url}: what came has the sum {given}, not {stated.checksum} as {record} states; it "
            "was removed: run again to fetch it anew"
        )
    part.replace(whole)
    return whole


def _sum(path: Path, stated: _File) -> str:
    """The sum of a file, written as the record writes that of `stated`."""
    algorithm, _, _ = stated.checksum.partition(":")
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _stated(record: str, name: str) -> _File:
    """Size and sum of one file, from the record's own description."""
    from pydantic import TypeAdapter, ValidationError

    with _opened(record) as response:
        body = response.read()
    try:
        files = TypeAdapter(_Record).validate_json(body).files
    except ValidationError as error:
        raise DataFault(
            f"{record}: no description of a record ({error.errors()[0]['msg']}); "
            "is there a proxy or a login page between?"
        ) from error
    for file in files:
        if file.key == name:
            if file.checksum.partition(":")[0] not in SUMS:
                raise DataFault(
                    f"{record}: states a sum of a kind that is unknown here, {file.checksum}; look "
                    "for a newer version of sfdabench"
                )
            return file
    there = ", ".join(file.key for file in files)
    raise DataFault(f"{record}: holds no {name}, only {there}; look for a newer record")


def _continue(url: str, part: Path, size: int, say: Say) -> None:
    """Append to `part` what it lacks of `size` bytes; anew where the server only sends all."""
    have = _size(part)
    if have >= size:
        return
    with _opened(url, {"Range": f"bytes={have}-"} if have else {}) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        if have and not resumed:
            say(f"{url}: the server does not resume; from the start")
            have = 0
        with part.open("ab" if resumed else "wb") as file:
            for chunk in _told(response, part.stem, have, size, say):
                file.write(chunk)
    have = _size(part)
    if have < size:
        raise DataFault(
            f"{url}: broke off after {have} of {size} bytes, kept in {part}; run again to go on"
        )


def _told(response: HTTPResponse, name: str, have: int, size: int, say: Say) -> Iterator[bytes]:
    """The chunks of a response, with a line from time to time on how far it is."""
    last = -SAY_EVERY
    while chunk := response.read(CHUNK):
        if time.monotonic() - last >= SAY_EVERY:
            say(f"{name}: {have / 2**20:.0f} of {size / 2**20:.0f} MiB")
            last = time.monotonic()
        have += len(chunk)
        yield chunk


@contextlib.contextmanager
def _opened(url: str, headers: Mapping[str, str] | None = None) -> Iterator[HTTPResponse]:
    """The answer of `url`; DataFault where it refuses, is not there, or breaks off."""
    headers = {"User-Agent": f"sfdabench/{__version__}"} | dict(headers or {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
            yield response
    except HTTPError as error:
        error.close()
        raise DataFault(
            f"{url}: the server answers {error.code} ({error.reason}); run again later, or "
            "download it by hand as `sfdabench data describe` says"
        ) from error
    except (OSError, HTTPException) as error:
        raise DataFault(
            f"{url}: {error}; see to that and run again: what has come is kept"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """All members, or none, into the new `folder`."""
    try:
        with zipfile.ZipFile(archive) as file:
            _check_members(file, archive)
            size = sum(member.file_size for member in file.infolist())
            check_writable(folder.parent, "--out", size)
            _extract(file, folder)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DataFault(
            f"{archive}: broken archive ({error}), and the one that the record holds; tell its "
            "publisher"
        ) from error


def _extract(file: zipfile.ZipFile, folder: Path) -> None:
    near = folder.with_name(f".{folder.name}.part")
    remove(near)  # of a run that was killed; the lock is ours
    try:
        file.extractall(near)
        near.replace(folder)
    except BaseException:
        remove(near)
        raise


def _check_members(file: zipfile.ZipFile, archive: Path) -> None:
    """Raise DataFault for the first member that must not be unpacked, or cannot be; or for none."""
    members = file.infolist()
    if all(_is_folder(member) for member in members):
        raise DataFault(f"{archive}: holds no file; tell its publisher")
    files = Counter(_parts(member) for member in members if not _is_folder(member))
    for member in members:
        if reason := _dangerous(member):
            raise DataFault(
                f"{archive}: member {member.orig_filename!r} {reason}; nothing was unpacked, and "
                "this archive should not be trusted: remove it"
            )
        parts = _parts(member)
        folders = [parts[:i] for i in range(1, len(parts) + _is_folder(member))]
        twice = files[parts] > 1 or any(folder in files for folder in folders)
        if reason := "is there twice, or as a file and a folder" if twice else _unreadable(member):
            raise DataFault(
                f"{archive}: member {member.orig_filename!r} {reason}; nothing was unpacked: tell "
                "its publisher"
            )


def _is_folder(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("/")  # the library's own test fails where there is no name


def _parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """Its folders and its name, in the stricter reading: both slashes, drives."""
    return PureWindowsPath(member.filename).parts


def _dangerous(member: zipfile.ZipInfo) -> str | None:
    """Why a member could write elsewhere than into its folder."""
    path = PureWindowsPath(member.filename)
    if path.anchor or ".." in path.parts:
        return "would leave the folder"
    if "\0" in member.orig_filename:
        return "has a zero byte in its name"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return None


def _unreadable(member: zipfile.ZipInfo) -> str | None:
    """Why a member cannot be unpacked."""
    if not _parts(member):
        return "has no name"
    if max(len(os.fsencode(part)) for part in _parts(member)) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} bytes"
    if member.flag_bits & ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in COMPRESSIONS:
        return f"is compressed by method {member.compress_type}, which is unknown here"
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
