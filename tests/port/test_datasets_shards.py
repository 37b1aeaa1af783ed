from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import sys
from importlib import import_module
from pathlib import Path

import pytest
from datasets_files import colour, encoded, labels, relative_names, write_tar

from port.data.datasets import BadImageError, make_dataset
from port.data.datasets.shards import expand_shards, make_shards
from port.data.datasets.tarballs import tar_members

# Not imported as usual: it ships no type information.
webdataset = import_module("webdataset")
tariterators = import_module("webdataset.tariterators")


def red(value: int) -> bytes:
    """Return an image that can be told from others."""
    return encoded((value, 0, 0))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of three samples each, written by webdataset itself."""
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"shard-{shard:04}.tar")) as writer:
            for number in range(3):
                key = f"{shard}{number}"
                writer.write({"__key__": key, "png": red(10 * shard + number), "cls": str(number).encode()})
    return tmp_path


def test_samples_equal_those_that_webdataset_reads(shards: Path) -> None:
    """Pixels, labels and order equal what webdataset's own reader yields."""
    pattern = f"{shards}/shard-{{0000..0002}}.tar"
    expected = []
    for shard in sorted(shards.iterdir()):
        with shard.open("rb") as file:
            expected += tariterators.group_by_keys(
                {**member, "__url__": str(shard)} for member in tariterators.tar_file_iterator(file)
            )
    source = make_shards(pattern)
    assert source.names[0] == "00.png"
    assert [source.read(index) for index in range(len(source))] == [sample["png"] for sample in expected]
    assert labels(source) == [int(sample["cls"]) for sample in expected] == [0, 1, 2] * 3
    assert source.classes == ["0", "1", "2"]
    assert source.describe() == f"9 images, 3 classes, from 3 tar shards {pattern}"


def test_any_order_gives_the_same_images(shards: Path) -> None:
    """Access is by index, not by stream: what a resumed run needs."""
    source = make_shards(f"{shards}/shard-*.tar")
    assert [colour(source, index)[0] for index in (8, 0, 4, 8)] == [22, 0, 11, 22]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - made on the same line
    assert [colour(copy, index)[0] for index in (5, 3)] == [12, 10]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("shard-{0000..0001}.tar", [0, 1]),
        ("shard-{0002,0000}.tar", [2, 0]),
        ("shard-000[12].tar", [1, 2]),
        ("*.tar", [0, 1, 2]),
        ("shard-0002.tar", [2]),
    ],
)
def test_patterns_are_expanded(shards: Path, pattern: str, expected: list[int]) -> None:
    """Braces as webdataset does, keeping their order; wildcards sorted."""
    assert expand_shards(f"{shards}/{pattern}") == [f"{shards}/shard-{shard:04}.tar" for shard in expected]


def test_joined_patterns_and_file_urls(shards: Path) -> None:
    """`::` joins patterns, as in webdataset, and `file:` is the local disk."""
    first, last = f"{shards}/shard-0000.tar", f"{shards}/shard-0002.tar"
    assert expand_shards(f"{last}::file:{first}") == [last, first]


@pytest.mark.parametrize(
    ("members", "image", "label"),
    [
        ({"a.jpg": red(1), "a.cls": b"7"}, "a.jpg", 7),
        ({"a.cls": b" 3\n", "a.JPEG": red(1)}, "a.JPEG", 3),
        ({"a.mask.png": red(9), "a.png": red(1), "a.json": b'{"label": 2}'}, "a.png", 2),
        ({"a.left.png": red(1), "a.right.png": red(9)}, "a.left.png", None),
        ({"x/y.z/a.webp": red(1), "x/y.z/a.txt": b"words"}, "x/y.z/a.webp", None),
        ({"a.png": red(1), "a.cls": b"1", "a.json": b'{"label": 2}'}, "a.png", 1),
        ({"a.png": red(1), "a.json": b'{"label": "cat"}'}, "a.png", 0),
        ({"a.png": red(1), "a.json": b'{"caption": "cat"}'}, "a.png", None),
        ({"a.png": red(1), "a.json": b"[1]"}, "a.png", None),
        ({"a.png": red(1), "a.json": b'{"label": true}'}, "a.png", None),
        ({"a.png": red(1), "a.cls": b"-1"}, "a.png", None),
        ({"a.png": red(1), "a.cls": b"cat"}, "a.png", None),
        ({"__meta__/x.png": red(9), "__index__": b"", "a.png": red(1), "._a.png": b"fork"}, "a.png", None),
    ],
)
def test_image_and_label_of_a_sample(tmp_path: Path, members: dict[str, bytes], image: str, label: int | None) -> None:
    """A plain suffix is preferred to a compound one, and .cls to .json; what is no class makes no label."""
    source = make_shards(str(write_tar(tmp_path / "0.tar", members)))
    assert relative_names(source, tmp_path / "0.tar") == [image]
    assert labels(source) == [label]
    assert colour(source, 0) == (1, 0, 0) or image.endswith("JPEG")


def test_members_are_grouped_by_webdatasets_rule(tmp_path: Path) -> None:
    """The key ends at the first dot of the file's name; equal keys that do not follow each other are two samples."""
    names = ["a/1.x.png", "a/1.cls", "a.b/2.png", "3.png", "a/1.jpg"]
    keys = [tariterators.base_plus_ext(name)[0] for name in names]
    assert keys == ["a/1", "a/1", "a.b/2", "3", "a/1"]
    source = make_shards(str(write_tar(tmp_path / "0.tar", dict.fromkeys(names, red(5)))))
    assert relative_names(source, tmp_path / "0.tar") == ["a/1.x.png", "a.b/2.png", "3.png", "a/1.jpg"]


def test_labels_that_are_names_are_sorted(tmp_path: Path) -> None:
    """Names of classes are numbered in their order, whatever the order of the samples; one may lack a label."""
    files = {
        "1.png": red(1),
        "1.json": b'{"label": "dog"}',
        "2.png": red(2),
        "3.png": red(3),
        "3.json": b'{"label": "cat"}',
    }
    source = make_shards(str(write_tar(tmp_path / "0.tar", files)))
    assert (source.classes, labels(source)) == (["cat", "dog"], [1, None, 0])
    assert "1 without a label" in source.describe()


@pytest.mark.parametrize(("first", "words"), [(b"5000000000", "up to 5000000000"), (b"1", "mixed with names")])
def test_labels_that_are_no_classes_are_left_out(tmp_path: Path, first: bytes, words: str) -> None:
    """Identifiers in .cls would make billions of classes; training needs none of them."""
    second = json.dumps({"label": "dog" if first == b"1" else 3}).encode()
    files = {"1.png": red(1), "1.cls": first, "2.png": red(2), "2.json": second}
    source = make_shards(str(write_tar(tmp_path / "0.tar", files)))
    assert (source.classes, labels(source)) == ([], [None, None])
    assert f"labels ignored: numbers {words}" in source.describe()


def test_samples_without_an_image_are_counted(tmp_path: Path) -> None:
    """They are left out, and `describe` says how many; none at all is an error."""
    source = make_shards(str(write_tar(tmp_path / "0.tar", {"1.txt": b"", "2.png": red(1), "3.cls": b"1"})))
    assert len(source) == 1
    assert "ignored 2 samples without an image" in source.describe()
    with pytest.raises(ValueError, match="no image in 1 shards, 1 samples without one"):
        make_shards(str(write_tar(tmp_path / "1.tar", {"1.txt": b""})))


@pytest.mark.parametrize(
    ("length", "complete", "damaged"),
    [
        (10239, 4, False),  # in the padding behind the end
        (4 * 1024 + 512, 4, False),  # behind the first block of the end mark
        (3 * 1024 + 512 + 60, 3, True),  # in the last member's data
        (2 * 1024 + 900, 3, True),  # in the padding behind the third member's data
        (2 * 1024 + 100, 2, True),  # in the third member's header
        (1024, 1, True),  # between two members
        (512, 0, True),  # behind the first header
    ],
)
def test_a_truncated_shard_is_used_as_far_as_it_goes(
    tmp_path: Path, length: int, complete: int, damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Members before the cut are read, and a warning names the shard. Cutting off padding behind the end is no loss."""
    path = write_tar(tmp_path / "0.tar", {f"{number}.png": red(number) for number in range(4)})
    whole = path.read_bytes()
    assert len(whole) == 10240
    # A member takes a header of 512 bytes and its data, which is padded to 512 bytes.
    assert 60 < len(red(0)) < 900 - 512
    path.write_bytes(whole[:length])
    with caplog.at_level(logging.WARNING, logger="port"):
        names = [name for name, _, _ in tar_members(str(path))]
        assert names == [f"{number}.png" for number in range(complete)]
        if complete:
            source = make_shards(str(path))
            assert [colour(source, index)[0] for index in range(len(source))] == list(range(complete))
    warned = f"{path} is truncated or damaged, its first {complete} files are used" in caplog.text
    assert warned == damaged


def test_a_shard_cut_between_members_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The end mark is missing, which `tarfile` alone accepts in silence."""
    path = write_tar(tmp_path / "0.tar", {f"{number}.png": red(number) for number in range(4)})
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    with caplog.at_level(logging.WARNING, logger="port"):
        assert len(list(tar_members(str(path)))) == 2
    assert "its first 2 files are used: the mark at its end is missing" in caplog.text


def test_a_damaged_header_ends_a_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing behind it can be found; what is before stays."""
    path = write_tar(tmp_path / "0.tar", {f"{number}.png": red(number) for number in range(4)})
    data = bytearray(path.read_bytes())
    data[2 * 1024 : 2 * 1024 + 200] = b"\xaa" * 200
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="port"):
        assert [name for name, _, _ in tar_members(str(path))] == ["0.png", "1.png"]
    assert f"{path} is truncated or damaged, its first 2 files are used: no header at offset 2,048" in caplog.text


def test_a_repeated_member_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A repeated key is an error for webdataset; one such member does not end a run here."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer) as writer:
        for value in (1, 2):
            writer.write({"__key__": "a", "png": red(value)})
    (tmp_path / "0.tar").write_bytes(buffer.getvalue())
    with caplog.at_level(logging.WARNING, logger="port"):
        source = make_shards(str(tmp_path / "0.tar"))
    assert [colour(source, index) for index in range(len(source))] == [(1, 0, 0)]
    assert f"{tmp_path / '0.tar'}: a member is left out: a.png: duplicate" in caplog.text


def test_long_names_do_not_shift_what_follows(tmp_path: Path) -> None:
    """Names over 100 characters take extra headers; offsets account for them."""
    names = [f"{letter * 180}.png" for letter in "ab"]
    source = make_shards(str(write_tar(tmp_path / "0.tar", {names[0]: red(3), names[1]: red(4)})))
    assert relative_names(source, tmp_path / "0.tar") == names
    assert [colour(source, index)[0] for index in (0, 1)] == [3, 4]


def test_a_shard_that_changed_since_gives_bad_images(shards: Path) -> None:
    """The error names the shard and the member in it."""
    source = make_shards(f"{shards}/shard-0000.tar")
    (shards / "shard-0000.tar").write_bytes(b"")
    with pytest.raises(BadImageError, match=r"shard-0000\.tar/01\.png: the archive ends early: 0 of"):
        source.load(1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pipe:cat x.tar", "'pipe:cat x.tar' is a stream.*copy the shards to a local disk"),
        ("https://host/shard-{0..1}.tar", "'https://host/shard-0.tar' is a stream"),
        ("s3://bucket/x.tar", "is a stream"),
    ],
)
def test_streams_are_an_error(url: str, words: str) -> None:
    """Exact resume needs random access; the error says what to do, with and without `wds:`."""
    for dataset_str in (url, f"wds:{url}"):
        with pytest.raises(ValueError, match=words):
            make_dataset(dataset_str)


@pytest.mark.parametrize("name", ["0.tar.gz", "0.tgz", "0.tar"])
def test_compressed_shards_are_an_error(tmp_path: Path, name: str) -> None:
    """Whatever the extension, the bytes tell; the error says to unpack it."""
    packed = write_tar(tmp_path / "plain.tar", {"a.png": red(1)}).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(packed))
    with pytest.raises(ValueError, match=r"is compressed \(gzip\).*unpack it to a plain \.tar"):
        make_dataset(str(tmp_path / name))


@pytest.mark.parametrize("data", [b"", b"no archive" * 100])
def test_what_is_no_archive_is_an_error(tmp_path: Path, data: bytes) -> None:
    """It is not taken for a truncated one."""
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"0\.tar' is no tar archive"):
        make_shards(str(tmp_path / "0.tar"))


def test_missing_shards_are_named(shards: Path) -> None:
    """Not one by one over several runs: the number and the first three."""
    with pytest.raises(FileNotFoundError, match=r"4 of its shards do not exist: '.*0003\.tar', '.*0005\.tar', …; exp"):
        make_shards(f"{shards}/shard-{{0000..0006}}.tar")
    with pytest.raises(FileNotFoundError, match=r"1 of its shards do not exist: '.*none-\*\.tar'; expected a form"):
        make_shards(f"{shards}/none-*.tar")


def test_without_webdataset_the_error_names_the_extra(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "webdataset"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'dinov2-parity\[webdataset\]'"):
        make_shards(f"{shards}/shard-0000.tar")
