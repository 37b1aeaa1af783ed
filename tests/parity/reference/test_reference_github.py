from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from parity.errors import ReferenceSourceError
from parity.reference.download import from_github
from parity.reference.source import Source, resolve

APRIL = "f8969297dbe53373b4041bf47d997a8dcc8d2077"
MASKING = "dinov2/data/masking.py"
NOWHERE = "http://127.0.0.1:9/{commit}.tar.gz"

Fetch = Callable[[], Source]


@dataclass
class Server:
    """A web server on this machine: `answers` maps an address to status and body."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    delay: float = 0.0

    @property
    def template(self) -> str:
        """Address of a commit's archive."""
        return f"{self.url}/{{commit}}.tar.gz"

    def serve(self, body: bytes, status: int = 200) -> None:
        """Answer with this body for the commit of April 2023."""
        self.answers[f"/{APRIL}.tar.gz"] = (status, body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running web server that answers 404 to what it does not know."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            status, body = state.answers.get(self.path, (404, b"no"))
            time.sleep(state.delay)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def _tarball(files: Mapping[str, bytes], top: str = "dinov2-main") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def github(server: Server, files_at_commit: dict[str, bytes], tmp_path: Path) -> Fetch:
    """`resolve("github")` against the server, which has the commit of April 2023."""
    server.serve(_tarball(files_at_commit))
    return lambda: resolve("github", cache=tmp_path / "cache", github_url=server.template, commit=APRIL, timeout=5)


def test_github_archive_is_fetched_verified_and_kept(
    github: Fetch, server: Server, files_at_commit: dict[str, bytes], tmp_path: Path
) -> None:
    """The archive is downloaded once; the second use reads the cache and verifies it again."""
    found = github()
    assert (found.source, found.requested, found.notes) == ("github", "github", ())
    assert found.identity.version == "commit f896929 (2023-04-20)"
    assert found.root == tmp_path / "cache" / "github-f8969297dbe5"
    assert dict(found.files) == files_at_commit
    assert github() == found
    assert server.asked == [f"/{APRIL}.tar.gz"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["github-f8969297dbe5"]


@pytest.mark.parametrize("damage", ["altered", "removed"])
def test_damaged_cache_is_fetched_anew(github: Fetch, server: Server, damage: str) -> None:
    """A cached copy with an altered or a missing file is replaced, and the report says so."""
    found = github()
    if damage == "altered":
        (found.root / MASKING).write_text("x = 1\n")
    else:
        (found.root / MASKING).unlink()
    again = github()
    assert again.identity.identity == "verified"
    assert "was damaged" in again.notes[0]
    assert MASKING in again.notes[0]
    assert (again.root / MASKING).read_bytes() == found.files[MASKING]
    assert len(server.asked) == 2


def test_archive_of_other_code_is_refused(
    server: Server, github: Fetch, files_at_commit: dict[str, bytes], tmp_path: Path
) -> None:
    """An archive that is not the commit is not kept; the altered file is named."""
    files_at_commit[MASKING] = files_at_commit[MASKING].replace(b"delta > 0:", b"delta > 1:")
    server.serve(_tarball(files_at_commit))
    with pytest.raises(ReferenceSourceError, match=r"is not commit f896929: .*`if delta > 1:`"):
        github()
    assert not (tmp_path / "cache").exists()


def test_archive_writes_nothing_outside(server: Server, files_at_commit: dict[str, bytes], tmp_path: Path) -> None:
    """Members that climb out of the folder, links, and files that training does not need are not read."""
    buffer = io.BytesIO(_tarball({}))
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("top/dinov2/loss/../../../evil.py", "top/dinov2/eval/knn.py", "top/README.md"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("top/dinov2/loss/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    server.serve(buffer.getvalue())
    assert from_github(APRIL, server.template, 5) == {}
    assert list(tmp_path.iterdir()) == []


def test_oversized_member_is_refused(server: Server) -> None:
    """A training file of more than 2 MiB is not official code."""
    server.serve(_tarball({MASKING: b"#" * (2**21 + 1)}))
    with pytest.raises(ReferenceSourceError, match="at most 2097152 bytes"):
        from_github(APRIL, server.template, 5)


def test_github_answers_that_are_no_archive(server: Server, github: Fetch) -> None:
    """404, text instead of an archive and a cut archive each give one line that says so."""
    server.serve(b"gone", 404)
    with pytest.raises(ReferenceSourceError, match=r"answered 404 .*--reference pypi or --reference PATH"):
        github()
    server.serve(b"<html>log in</html>")
    with pytest.raises(ReferenceSourceError, match="sent no readable archive"):
        github()
    server.serve(_tarball({MASKING: bytes(range(256)) * 40})[:200])
    with pytest.raises(ReferenceSourceError, match="sent no readable archive"):
        github()


def test_silent_server_is_given_up(server: Server, github: Fetch, tmp_path: Path) -> None:
    """A server that does not answer is left after the timeout."""
    server.delay = 0.6
    begin = time.monotonic()
    with pytest.raises(ReferenceSourceError, match="timed out"):
        resolve("github", cache=tmp_path, github_url=server.template, commit=APRIL, timeout=0.2)
    assert time.monotonic() - begin < 0.6


def test_unreachable_github_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection gives one line with the address, the cause and the next step."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ReferenceSourceError) as caught:
        resolve("github", cache=tmp_path, github_url=NOWHERE, timeout=1)
    message = str(caught.value)
    assert "cannot be reached" in message
    assert "--reference PATH" in message
    assert "\n" not in message


def test_auto_prefers_github(server: Server, github: Fetch, tmp_path: Path) -> None:
    """Where GitHub answers, PyPI is not asked and nothing is noted."""
    found = resolve("auto", cache=tmp_path, github_url=server.template, commit=APRIL, timeout=5)
    assert (found.source, found.requested, found.notes) == ("github", "auto", ())
