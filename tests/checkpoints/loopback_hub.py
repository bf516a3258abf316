"""A Hub on the loopback interface: the endpoints that moving files uses."""

import base64
import hashlib
import json
import shutil
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class LoopbackHub:
    """Repositories and what is asked of them.

    Attributes:
      url: what HF_ENDPOINT is to be.
      revisions: (repository, revision) -> folder with the files.
      requests: (method, repository, file) of every request for a file.
      break_after: file -> bytes after which the connection breaks, once per entry.
      gated: repositories whose terms must be accepted.
      status: what every request is answered with instead, if not None.
      token: what may write; None for anyone.
      created: what was said of each new repository.
      commits: first line of each commit's message.
    """

    def __init__(self, url: str):
        self.url, self.store = url, tempfile.TemporaryDirectory()
        self.revisions: dict[tuple[str, str], Path] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.break_after: dict[str, list[int]] = {}
        self.gated: set[str] = set()
        self.status: int | None = None
        self.token: str | None = None
        self.created: list[dict] = []
        self.commits: list[str] = []

    def publish(self, repository: str, folder: Path, revision: str = "main") -> None:
        commit = commit_of(folder)
        self.revisions[repository, revision] = folder
        self.revisions[repository, commit] = folder

    def commit(self, repository: str, revision: str, lines: list[dict]) -> str:
        """Apply a commit, lines of JSON, to a copy of what was there."""
        folder = Path(self.store.name) / f"{len(self.commits)}"
        old = self.revisions.get((repository, revision))
        if old is not None:
            shutil.copytree(old, folder)
        folder.mkdir(exist_ok=True)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
            else:
                assert line["key"] == "file", line
                file = folder / value["path"]
                file.parent.mkdir(exist_ok=True, parents=True)
                file.write_bytes(base64.b64decode(value["content"]))
        self.publish(repository, folder, revision)
        return commit_of(folder)

    def downloads(self) -> list[str]:
        """Return the files whose content was sent."""
        return [name for method, _, name in self.requests if method == "GET"]


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


@contextmanager
def loopback_hub():
    """Run a Hub until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format, *args):
            pass

        def do_HEAD(self):
            self.answer(with_content=False)

        def do_GET(self):
            if "/tree/" in self.path:
                return self.list_tree()
            self.answer(with_content=True)

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.status is not None:
                return self.refuse(hub.status, "")
            if hub.token not in (None, self.headers.get("Authorization", "")[7:]):
                return self.refuse(401, "")
            if self.path == "/api/repos/create":
                return self.create(json.loads(body))
            _, _, org, name, what, revision = self.path.split("?")[0][1:].split("/", 5)
            known = {key[1] for key in hub.revisions if key[0] == f"{org}/{name}"}
            if revision not in {"main", *known}:
                return self.refuse(404, "RevisionNotFound")
            if what == "preupload":
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "regular",
                        "shouldIgnore": False,
                    }
                    for one in json.loads(body)["files"]
                ]
                return self.send_json({"files": files})
            lines = [json.loads(line) for line in body.splitlines()]
            commit = hub.commit(f"{org}/{name}", revision, lines)
            url = f"{hub.url}/{org}/{name}/commit/{commit}"
            self.send_json({"commitUrl": url, "commitOid": commit})

        def create(self, wanted: dict) -> None:
            repository = f"{wanted['organization']}/{wanted['name']}"
            url = f"{hub.url}/{repository}"
            if any(key[0] == repository for key in hub.revisions):
                return self.send_json({"url": url}, 409)
            hub.created.append(wanted)
            self.send_json({"url": url})

        def list_tree(self) -> None:
            path = self.path.split("?")[0].removeprefix("/api/models/")
            org, name, _, revision, *inside = path.split("/")
            folder = hub.revisions.get((f"{org}/{name}", revision))
            if folder is None:
                known = any(key[0] == f"{org}/{name}" for key in hub.revisions)
                return (
                    self.refuse(404, "RevisionNotFound")
                    if known
                    else (
                        self.send_json([])  # just made
                    )
                )
            if not folder.joinpath(*inside).is_dir():
                return self.refuse(404, "EntryNotFound")
            files = [p for p in folder.joinpath(*inside).rglob("*") if p.is_file()]
            self.send_json(
                [
                    {"type": "file", "path": str(p.relative_to(folder)),
                     "oid": "0" * 40, "size": p.stat().st_size}
                    for p in files
                ]
            )  # fmt: skip

        def send_json(self, content, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def answer(self, *, with_content: bool) -> None:
            parts = self.path.strip("/").split("/", 4)
            if len(parts) != 5 or parts[2] != "resolve":
                return self.refuse(404, "")
            repository, revision, name = "/".join(parts[:2]), parts[3], parts[4]
            hub.requests.append((self.command, repository, name))
            if hub.status is not None:
                return self.refuse(hub.status, "")
            if repository in hub.gated:
                return self.refuse(403, "GatedRepo")
            if not any(key[0] == repository for key in hub.revisions):
                return self.refuse(404, "RepoNotFound")
            if (repository, revision) not in hub.revisions:
                return self.refuse(404, "RevisionNotFound")
            folder = hub.revisions[repository, revision]
            if not (folder / name).is_file():
                return self.refuse(404, "EntryNotFound")
            self.send_file(folder, name, with_content)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_file(self, folder: Path, name: str, with_content: bool) -> None:
            data = (folder / name).read_bytes()
            start = 0
            asked = self.headers.get("Range")
            if with_content and asked:
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            if start:
                span = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self.send_header("Content-Range", span)
            self.send_header("X-Repo-Commit", commit_of(folder))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if not with_content:
                return
            if hub.break_after.get(name):
                self.wfile.write(data[start : start + hub.break_after[name].pop()])
                self.close_connection = True
                return
            self.wfile.write(data[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = LoopbackHub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        hub.store.cleanup()
        server.server_close()
        thread.join()
