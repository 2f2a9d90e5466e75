"""Remote roots: files are copied once, whole or not at all, and read as local ones; what is
unreachable is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from small_images import same, write_cifar100, write_svhn

from robsearch.data import CIFAR10, CIFAR100, MNIST, SVHN, load
from robsearch.data.remote import local_copy
from robsearch.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copies(cache: Path) -> dict[str, int]:
    """Name and inode of each file below ``cache/sources`` but the locks: a file copied again has
    another inode."""
    files = (
        file for file in (cache / "sources").rglob("*") if file.is_file() and file.suffix != ".lock"
    )
    return {file.name: file.stat().st_ino for file in files}


def test_a_uri_reads_what_its_folder_reads_from_one_copy(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "far away"
    write_cifar100(root, monkeypatch)
    (root / "cifar-100-python" / "unneeded").write_bytes(b"x")
    here, there = CIFAR100(root=str(root), val=100), CIFAR100(root=root.as_uri(), val=100)
    assert "%20" in root.as_uri()
    assert same(there.read(), here.read())
    first = copies(cache)
    assert set(first) == {"train", "test", "meta"}
    assert same(there.read(), here.read())
    assert copies(cache) == first


def test_the_variable_may_hold_a_uri_and_the_copy_lies_in_the_cache_that_load_is_given(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    monkeypatch.setenv("ROBSEARCH_DATA", tmp_path.as_uri())
    splits = load(SVHN(train=10, val=10), tmp_path / "chosen")
    assert [len(split.labels) for split in splits.values()] == [10, 10, 20]
    assert set(copies(tmp_path / "chosen")) == {"train_32x32.mat", "test_32x32.mat"}
    assert not cache.exists()


def test_a_copy_of_another_size_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    source, root = tmp_path / "there" / "file.gz", (tmp_path / "there").as_uri()
    source.write_bytes(b"not really compressed")
    copy = local_copy(root, ["file.gz"]) / "file.gz"
    assert copy.read_bytes() == b"not really compressed"
    copy.write_bytes(b"half")
    assert local_copy(root, ["file.gz"]) / "file.gz" == copy
    assert copy.read_bytes() == b"not really compressed"


def test_a_source_that_changed_and_kept_its_size_is_copied_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    source = tmp_path / "there" / "labels"
    root = source.parent.as_uri()
    source.write_bytes(b"0123")
    os.utime(source, (1, 1))
    copy = local_copy(root, ["labels"]) / "labels"
    source.write_bytes(b"0124")
    assert local_copy(root, ["labels"]) / "labels" == copy
    assert copy.read_bytes() == b"0124"


def test_a_remote_folder_without_the_files_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        MNIST(root=tmp_path.as_uri()).read()
    for part in (
        "MNIST/raw",
        f"no complete copy in {tmp_path.as_uri()}",
        "MNIST('/data', download=True)",
        "copy it",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("root", ["nope://bucket/data", "s3://", "file://relative"])
def test_a_root_that_does_not_open_is_refused(root: str) -> None:
    with pytest.raises(
        InputError, match=r"expected a root that opens, such as s3://, gs:// or file://, at "
    ) as caught:
        CIFAR10(root=root).read()
    assert root in str(caught.value)


@pytest.mark.parametrize("root", ["s3://key:open/sesame@bucket/data", "s3://:sesame@bucket/data"])
def test_a_password_in_a_root_is_refused_and_not_repeated(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBSEARCH_DATA", root)
    for attempt in (lambda: CIFAR10(root=root), lambda: CIFAR10().read()):
        with pytest.raises(
            InputError, match="expected a root without a password, got one before bucket/data"
        ) as caught:
            attempt()
        assert "sesame" not in str(caught.value)


# --- Amazon's protocol, spoken by a server of our own ---


class Bucket(BaseHTTPRequestHandler):
    """The objects of one bucket by key, to be read with HEAD and GET; a ``fading`` one loses a byte
    with each HEAD."""

    objects: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    fading: ClassVar[bool] = False

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path, _, query = self.path.partition("?")
        key = path.removeprefix("/bucket/")
        content = self.objects.get(key)
        if self.fading and not body and content is not None:
            self.objects[key] = content[
                :-1
            ]  # before the answer is out, so that the next request finds it faded
        if "list-type" in query:
            inside = b"<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
            content = b"<ListBucketResult>" + inside + b"</ListBucketResult>"
        if body and content is not None:
            self.asked.append(path)
        self.send_response(404 if content is None else 200)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a folder in the bucket; ``Bucket.objects`` is what it holds."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("objects", "asked"):
        monkeypatch.setattr(Bucket, name, type(getattr(Bucket, name))())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"s3://bucket/data?region=here&scheme=http&endpoint_override=127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_object_store_is_read_once(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar100(tmp_path, monkeypatch)
    for file in (tmp_path / "cifar-100-python").iterdir():
        Bucket.objects[f"data/cifar-100-python/{file.name}"] = file.read_bytes()
    for _ in range(2):
        assert same(CIFAR100(root=s3, val=100).read(), CIFAR100(root=str(tmp_path), val=100).read())
    got = [f"/bucket/data/cifar-100-python/{name}" for name in ("meta", "test", "train")]
    assert sorted(set(Bucket.asked)) == got
    assert len(Bucket.asked) == len(got)


def test_an_object_store_without_the_files_is_missing_data(s3: str) -> None:
    with pytest.raises(InputError, match=r"no complete copy in s3://bucket/data"):
        CIFAR10(root=s3).read()


def test_a_copy_that_is_not_of_the_announced_size_is_not_kept(
    s3: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bucket.objects["data/train"] = bytes(1000)
    monkeypatch.setattr(Bucket, "fading", True)
    with pytest.raises(
        InputError, match=r"expected 1,000 bytes of bucket/data/train, got 99\d: try again"
    ):
        local_copy(s3, ["train"])
    assert copies(cache) == {}
    monkeypatch.setattr(Bucket, "fading", False)
    Bucket.objects["data/train"] = bytes(1000)
    assert (local_copy(s3, ["train"]) / "train").read_bytes() == bytes(1000)


@pytest.mark.slow
def test_a_server_that_is_away_is_refused_in_seconds(s3: str) -> None:
    away = s3.partition("endpoint_override")[0] + "endpoint_override=127.0.0.1:9"
    with pytest.raises(InputError, match=r"at s3://bucket/data.*127\.0\.0\.1 port 9"):
        local_copy(away, ["train"])
