import hashlib
import io
import json
import re
import shutil
import stat
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sfdabench.core.errors import BadInput, DataFault
from sfdabench.prepare import fetch as module
from sfdabench.prepare.fetch import OPEN, fetch

FILE = "CHAOS_Train_Sets.zip"
MEMBERS = {
    "Train_Sets/MR/1/T2SPIR/DICOM_anon/IMG-0001.dcm": bytes(range(256)) * 400,
    "Train_Sets/MR/1/T2SPIR/Ground/IMG-0001.png": b"mask",
}


def zipped(members, mode=None):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode or stat.S_IFREG | 0o644) << 16
            file.writestr(info, content)
    return data.getvalue()


class Zenodo(ThreadingHTTPServer):
    """A record with one archive; what it does wrong are attributes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.body = zipped(MEMBERS)
        self.file, self.stated, self.record = FILE, None, None
        self.ranges, self.cut, self.status = True, None, 200
        self.asked = []  # (path, Range header)

    def description(self):
        if self.record is not None:
            return self.record
        sum_ = self.stated or hashlib.md5(self.body).hexdigest()
        entry = {"key": self.file, "size": len(self.body), "checksum": f"md5:{sum_}", "id": "x"}
        return json.dumps({"id": 3431873, "files": [entry]}).encode()

    def downloads(self):
        return [given for path, given in self.asked if "/files/" in path]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, given = self.server, self.headers["Range"]
        server.asked.append((self.path, given))
        assert self.headers["User-Agent"].startswith("sfdabench/")
        if server.status != 200:
            return self.send_error(server.status)
        if self.path == "/api/records/3431873":
            return self.answer(200, server.description())
        assert self.path == f"/records/3431873/files/{FILE}?download=1"
        if given and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", given)[1])
            return self.answer(206, server.body[start:], server.cut)
        return self.answer(200, server.body, server.cut)

    def answer(self, status, body, cut=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def zenodo(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Zenodo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data"


def get(zenodo, out, said=None):
    said = [] if said is None else said
    return fetch("chaos", out, say=said.append, base=zenodo.base)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def leftovers(out):
    return {path.name for path in out.iterdir()} - {"chaos", "chaos.lock", FILE}


def test_chaos_is_open():
    assert set(OPEN) == {"chaos"}
    assert (OPEN["chaos"].record, OPEN["chaos"].file) == (3431873, FILE)


def test_all_at_once(zenodo, out):
    said = []
    assert get(zenodo, out, said) == out / "chaos"
    assert files(out / "chaos") == MEMBERS
    assert zenodo.downloads() == [None]
    assert not leftovers(out)
    assert any("complete" in line for line in said)
    assert (out / "chaos").stat().st_mode & 0o755 == 0o755


def test_what_is_there_is_not_fetched_again(zenodo, out):
    get(zenodo, out)
    zenodo.asked.clear()
    said = []
    assert get(zenodo, out, said) == out / "chaos"
    assert not zenodo.asked
    assert "there already" in said[-1]


def test_a_whole_archive_is_unpacked_again_and_not_fetched_again(zenodo, out):
    get(zenodo, out)
    shutil.rmtree(out / "chaos")
    (out / "chaos").mkdir()
    get(zenodo, out)
    assert files(out / "chaos") == MEMBERS
    assert zenodo.downloads() == [None]


def test_what_a_killed_run_unpacked_is_removed(zenodo, out):
    (out / ".chaos.part" / "Train_Sets").mkdir(parents=True)
    (out / ".chaos.part" / "Train_Sets" / "half").write_bytes(b"half")
    assert files(get(zenodo, out)) == MEMBERS
    assert not leftovers(out)


def test_a_file_in_the_way_is_named_before_anything_is_fetched(zenodo, out):
    out.mkdir()
    (out / "chaos").write_text("mine")
    with pytest.raises(BadInput, match=r"data/chaos: a file where the folder should be"):
        get(zenodo, out)
    assert not zenodo.asked


def test_a_broken_off_download_is_kept_and_resumed(zenodo, out):
    zenodo.cut = 5000
    with pytest.raises(DataFault, match=rf"broke off after 5000 of {len(zenodo.body)} bytes"):
        get(zenodo, out)
    assert (out / f"{FILE}.part").read_bytes() == zenodo.body[:5000]
    assert leftovers(out) == {f"{FILE}.part"}
    assert not (out / FILE).exists()
    zenodo.cut = None
    get(zenodo, out)
    assert zenodo.downloads() == [None, "bytes=5000-"]
    assert files(out / "chaos") == MEMBERS
    assert not leftovers(out)


def test_several_breaks(zenodo, out):
    zenodo.cut = 40_000
    for _ in range(2):
        with pytest.raises(DataFault, match="run again to go on"):
            get(zenodo, out)
    get(zenodo, out)
    assert zenodo.downloads() == [None, "bytes=40000-", "bytes=80000-"]
    assert files(out / "chaos") == MEMBERS


def test_a_part_that_is_whole_needs_no_download(zenodo, out):
    out.mkdir()
    (out / f"{FILE}.part").write_bytes(zenodo.body)
    get(zenodo, out)
    assert not zenodo.downloads()
    assert files(out / "chaos") == MEMBERS


def test_a_server_without_ranges_starts_anew_and_that_is_said(zenodo, out):
    out.mkdir()
    (out / f"{FILE}.part").write_bytes(b"x" * 700)
    zenodo.ranges, said = False, []
    get(zenodo, out, said)
    assert zenodo.downloads() == ["bytes=700-"]
    assert any("does not resume" in line for line in said)
    assert files(out / "chaos") == MEMBERS


def test_wrong_sum_names_both(zenodo, out):
    zenodo.stated = "0" * 32
    with pytest.raises(DataFault) as caught:
        get(zenodo, out)
    message = str(caught.value)
    assert "0" * 32 in message
    assert hashlib.md5(zenodo.body).hexdigest() in message
    assert FILE in message
    assert "it was removed: run again" in message
    assert not leftovers(out)
    assert not leftovers(out)
    assert not (out / FILE).exists()
    assert not (out / "chaos").exists()


def test_a_part_of_another_file_is_found_out(zenodo, out):
    out.mkdir()
    (out / f"{FILE}.part").write_bytes(b"x" * 700)
    with pytest.raises(DataFault, match="what came has the sum md5:"):
        get(zenodo, out)
    get(zenodo, out)
    assert files(out / "chaos") == MEMBERS


def test_an_archive_of_another_sum_is_named_and_left_alone(zenodo, out):
    out.mkdir()
    (out / FILE).write_bytes(b"mine")
    with pytest.raises(DataFault) as caught:
        get(zenodo, out)
    for part in (
        str(out / FILE),
        hashlib.md5(b"mine").hexdigest(),
        hashlib.md5(zenodo.body).hexdigest(),
        "remove or rename it",
    ):
        assert part in str(caught.value)
    assert (out / FILE).read_bytes() == b"mine"
    assert not zenodo.downloads()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "Train_Sets/../../evil",
        "/etc/evil",
        "C:/evil",
        "C:evil",
        "..\\evil",
        "\\\\h\\s\\e",
    ],
)
def test_members_that_would_leave_the_folder(zenodo, out, name):
    zenodo.body = zipped({"Train_Sets/good": b"good", name: b"evil"})
    with pytest.raises(DataFault, match=r"would leave the folder; nothing was unpacked") as caught:
        get(zenodo, out)
    assert repr(name) in str(caught.value)
    assert not (out / "chaos").exists()
    assert not leftovers(out)
    assert not [path for path in out.parent.rglob("*") if path.name in ("evil", "good")]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices(zenodo, out, kind):
    zenodo.body = zipped({"Train_Sets/link": b"/etc/passwd"}, mode=kind | 0o777)
    with pytest.raises(DataFault, match="'Train_Sets/link' is a link or a device; nothing was"):
        get(zenodo, out)
    assert not (out / "chaos").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no file"),
        ({"Train_Sets/": b""}, "holds no file"),
        ({"": b"x"}, "member '' has no name"),
        ({".": b"x"}, "member '.' has no name"),
        ({"Train_Sets/" + "a" * 256: b"x"}, "has a name of more than 255 bytes"),
        ({"Train_Sets/" + "\u00e9" * 128: b"x"}, "has a name of more than 255 bytes"),
        ({"a": b"x", "a/b": b"y"}, "member 'a/b' is there twice, or as a file and a folder"),
        ({"a/b": b"y", "a": b"x"}, "member 'a/b' is there twice, or as a file and a folder"),
        ({"a": b"x", "a/": b""}, "member 'a/' is there twice, or as a file and a folder"),
        ({"a": b"x", "./a": b"y"}, "is there twice"),
    ],
    ids=[
        "empty",
        "folder",
        "no-name",
        "dot",
        "long",
        "accents",
        "both",
        "both-2",
        "both-3",
        "twice",
    ],
)
def test_members_that_cannot_be_unpacked(zenodo, out, members, message):
    zenodo.body = zipped(members)
    with pytest.raises(DataFault, match=re.escape(message)):
        get(zenodo, out)
    assert not (out / "chaos").exists()
    assert not leftovers(out)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, 1, "member 'Train_Sets/a' is encrypted"),
        (10, 99, "member 'Train_Sets/a' is compressed by method 99, which is unknown here"),
    ],
)
def test_members_that_no_library_reads(zenodo, out, offset, value, message):
    body = bytearray(zipped({"Train_Sets/a": b"x"}))
    body[body.index(b"PK\x01\x02") + offset] = value  # its entry in the directory at the end
    zenodo.body = bytes(body)
    with pytest.raises(DataFault, match=message):
        get(zenodo, out)
    assert not (out / "chaos").exists()
    assert not leftovers(out)


def test_a_zero_byte_in_a_name(zenodo, out):
    zenodo.body = zipped({"Train_Sets/aXb": b"x"}).replace(b"aXb", b"a\0b")
    with pytest.raises(DataFault, match="has a zero byte in its name; nothing was unpacked"):
        get(zenodo, out)


def test_a_name_with_two_dots_inside_is_no_harm(zenodo, out):
    zenodo.body = zipped({"Train_Sets/a..b/..c": b"fine"})
    assert files(get(zenodo, out)) == {"Train_Sets/a..b/..c": b"fine"}


@pytest.mark.parametrize("body", [b"<html>not an archive</html>", zipped(MEMBERS)[:-30]])
def test_broken_archive(zenodo, out, body):
    zenodo.body = body
    with pytest.raises(DataFault, match=rf"{FILE}: broken archive"):
        get(zenodo, out)
    assert not (out / "chaos").exists()


def test_broken_member_leaves_nothing(zenodo, out):
    body = bytearray(zenodo.body)
    body[5000] ^= 1  # in the stored bytes of the first member
    zenodo.body = bytes(body)
    with pytest.raises(DataFault, match=r"broken archive .*CRC"):
        get(zenodo, out)
    assert not (out / "chaos").exists()
    assert not leftovers(out)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusing_server(zenodo, out, status):
    zenodo.status = status
    with pytest.raises(DataFault, match=rf"/api/records/3431873: the server answers {status}"):
        get(zenodo, out)
    assert not leftovers(out)


def test_archive_that_is_gone(zenodo, out, monkeypatch):
    stated = module._stated

    def then_gone(*arguments):
        found = stated(*arguments)
        zenodo.status = 404
        return found

    monkeypatch.setattr(module, "_stated", then_gone)
    with pytest.raises(DataFault, match=rf"{FILE}\?download=1: the server answers 404"):
        get(zenodo, out)
    assert not leftovers(out)


def test_nothing_listening(zenodo, out):
    zenodo.shutdown()
    zenodo.server_close()
    with pytest.raises(DataFault, match=r"/records/3431873: .*refused.*see to that and run"):
        get(zenodo, out)


def test_silent_server(zenodo, out, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    monkeypatch.setattr(Handler, "do_GET", lambda handler: threading.Event().wait(0.5))
    with pytest.raises(DataFault, match=r"timed out.*run again"):
        get(zenodo, out)


@pytest.mark.parametrize("record", [b"<html>log in</html>", b'{"status": 1}', b'{"files": [{}]}'])
def test_answer_that_is_no_record(zenodo, out, record):
    zenodo.record = record
    with pytest.raises(DataFault, match=r"no description of a record .*login page"):
        get(zenodo, out)


def test_a_sum_of_an_unknown_kind(zenodo, out):
    zenodo.record = zenodo.description().replace(b'"md5:', b'"crc:')
    with pytest.raises(DataFault, match="states a sum of a kind that is unknown here, crc:"):
        get(zenodo, out)


def test_record_without_the_file(zenodo, out):
    zenodo.file = "Other.zip"
    with pytest.raises(DataFault, match=f"holds no {FILE}, only Other.zip"):
        get(zenodo, out)


class TestRoom:
    @staticmethod
    def free(monkeypatch, size):
        usage = namedtuple("usage", "total used free")(0, 0, size)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    def test_for_the_archive_is_asked_first(self, zenodo, out, monkeypatch):
        self.free(monkeypatch, len(zenodo.body) - 1)
        with pytest.raises(BadInput, match=r"--out .* MiB free, about .* MiB needed"):
            get(zenodo, out)
        assert not zenodo.downloads()
        assert not leftovers(out)

    def test_for_the_rest_of_an_archive_is_enough(self, zenodo, out, monkeypatch):
        out.mkdir()
        (out / f"{FILE}.part").write_bytes(zenodo.body[:-9])
        self.free(monkeypatch, 10)
        with pytest.raises(BadInput, match="needed"):  # to unpack it
            get(zenodo, out)
        assert (out / FILE).read_bytes() == zenodo.body
        assert not (out / "chaos").exists()

    def test_folder_that_cannot_be_written(self, zenodo, out):
        out.write_text("a file")
        with pytest.raises(BadInput, match=r"--out .*data: cannot be written"):
            get(zenodo, out)
        assert not zenodo.asked


@pytest.mark.parametrize("name", ["refuge", "nonsense"])
def test_data_that_are_not_open(name, out):
    with pytest.raises(BadInput, match=rf"open: chaos.*`sfdabench data describe {name}`"):
        fetch(name, out)
    assert not out.exists()


def test_progress_is_told(zenodo, out):
    said = []
    get(zenodo, out, said)
    assert said[0] == f"{FILE}: 0 of 0 MiB"
