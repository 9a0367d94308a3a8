"""Labels from CSV files as people have them, and one line for those that are none."""

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike import LookalikeError
from lookalike.images.inputs import labels as labels_module
from lookalike.images.inputs.labels import SCHEMA, open_labels, write_labels
from lookalike.system.store import open_store

STANFORD = ",x1,y1,x2,y2,Class,image\n0,39,116,569,375,14,00001.jpg\n1,36,116,868,587,3,00002.jpg\n"


def csv(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def labels_of(path: Path, *columns: str) -> dict[str, str]:
    batches = list(open_labels(path, *columns))
    assert all(batch.schema == SCHEMA for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    labels = {row["name"]: row["label"] for row in rows}
    assert len(labels) == len(rows)
    return labels


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (STANFORD, {"00001.jpg": "14", "00002.jpg": "3"}),
        ("\ufeff" + STANFORD, {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.replace("\n", "\r"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.replace(",", ";"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.replace(",", "\t"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.replace(",", "|"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.encode("utf-16"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.encode("utf-16-le"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.encode("utf-16-be"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.encode("utf-32"), {"00001.jpg": "14", "00002.jpg": "3"}),
        ("image\tClass\r\na,b.jpg\tCitroën\r\n".encode("utf-16"), {"a,b.jpg": "Citroën"}),
        ('"image";"Class"\n"a;b.jpg";"1, 2"\n', {"a;b.jpg": "1, 2"}),
        (" image , Class\n a.jpg\t, \u00a0red \nb.jpg,\u3000 \n", {"a.jpg": "red"}),
        ("\n\nimage,Class\na.jpg,1\n", {"a.jpg": "1"}),
        ('"image","two\nlines",Class\na.jpg,x,1\n', {"a.jpg": "1"}),
        ("image,x,x,,,Class\na.jpg,1,2,3,4,5\n", {"a.jpg": "5"}),
        ('image,Class\na 5" b.jpg,27" wide\n', {'a 5" b.jpg': '27" wide'}),
        ('image,Class\n"a ""b"".jpg",x\n', {'a "b".jpg': "x"}),
        ("image,Class\na.jpg,re\u0301d\n", {"a.jpg": "réd"}),
        ("image,Class\ns3://b//a/../x.jpg,1\n", {"s3://b//a/../x.jpg": "1"}),
        (STANFORD.replace("\n", "\r\n"), {"00001.jpg": "14", "00002.jpg": "3"}),
        (STANFORD.rstrip(), {"00001.jpg": "14", "00002.jpg": "3"}),
        ("\ufeffimage,Class\na.jpg,1\n", {"a.jpg": "1"}),
        ("Class,image\n\n1,a.jpg\n\n", {"a.jpg": "1"}),
        ("image,Class\na,007\nb,1.50\nc,1e3\n", {"a": "007", "b": "1.50", "c": "1e3"}),
        ("image,Class\na,true\nb,2012-01-02\n", {"a": "true", "b": "2012-01-02"}),
        ("image,Class\na,NA\nb,null\nc,NaN\n", {"a": "NA", "b": "null", "c": "NaN"}),
        ("image,Class\na.jpg,\n,3\nb.jpg,1\n", {"b.jpg": "1"}),
        ('image,Class\n"a, b.jpg","Audi ""S4"", 2012"\n', {"a, b.jpg": 'Audi "S4", 2012'}),
        ('image,Class\n"two\nlines.jpg","up\ndown"\n', {"two%0Alines.jpg": "up\ndown"}),
        ("image,Class\n./x//a.jpg,1\n b.jpg ,2\n", {"x/a.jpg": "1", "b.jpg": "2"}),
        ("image,Class\n100%.jpg,1\n%41.jpg,2\n", {"100%25.jpg": "1", "%2541.jpg": "2"}),
        ("image,Class\nÅ日本.jpg,Citroën\n", {"Å日本.jpg": "Citroën"}),
    ],
)  # fmt: skip
def test_labels(tmp_path: Path, content: str | bytes, labels: dict[str, str]) -> None:
    assert labels_of(csv(tmp_path, content)) == labels


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = csv(tmp_path, "file,image,make,Class\na.jpg,x,Audi,y\n")
    assert labels_of(path, "file", "make") == {"a.jpg": "Audi"}


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    path = csv(tmp_path, b"image,Class,note\na.jpg,1,\xff\xfe\nb.jpg,2,\n")
    assert labels_of(path) == {"a.jpg": "1", "b.jpg": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2\n", "lacks the column 'image' or 'Class'; its header is 'x,y'.*`image_name`"),
        ("\ufeffx,y\n1,2\n", "its header is 'x,y'"),
        ("image,label\na.jpg,2\n", "its header is 'image,label'"),
        ("image:Class\na.jpg:2\n", "its header is 'image:Class'"),
        ("a.jpg,1\nb.jpg,2\n", "has no header, its first line is 'a.jpg,1': put .*'image,Class'"),
        ("x;b/c.png\n", "has no header"),
        ("image,Class, image\na.jpg,1,b.jpg\n", "has the column 'image' 2 times: rename"),
        ("Class,Class,Class,image\n", "has the column 'Class' 3 times"),
        ("Image,Class\na.jpg,2\n", "its header is 'Image,Class'"),
        (STANFORD.encode("utf-16")[:-1], "labels.csv"),
        ("", r"no CSV with a header \(it is empty\)"),
        ("\n\n\n", "no CSV with a header"),
        ("image,Class", "labels.csv"),
        ("image,Class\n", "holds no labels"),
        ("image,Class\n,1\na.jpg,\n", "holds no labels"),
        ("image,Class\na.jpg,1\nb.jpg\n", "line 3: 1 values, and its header has 2: 'b.jpg'"),
        ("image,Class\r\n\r\na.jpg,1\r\nb,2,3\r\n", "line 4: 3 values"),
        ('image,Class\n"a.jpg,1\n', "line 2: a quote is not closed"),
        ('image,Class\nb.jpg,1\na.jpg,"1\n', "line 3: a quote is not closed"),
        # Quotes that swallow rows: to the end of the file, to the next quote, in other columns.
        ('image,Class\na.jpg,"1\nb.jpg,2\nc.jpg,3\n', "line 2: a quote"),
        ('image,Class\nx.jpg,0\n"a.jpg,1\nb.jpg,2\n"c.jpg",3\n', "line 3: a quote"),
        ('image,Class\n"x.jpg","0"\n"a.jpg","1\n"b.jpg","2"\n"c.jpg","3"\n', "line 3: a quote"),
        ('image,Class\n"a.jpg,1\nb.jpg,2\nc.jpg",3\n', "line 2: a quote"),
        ('image,Class,note\na.jpg,1,"x\nb.jpg,2,y\nc.jpg,3,"z"\n', "line 2: a quote"),
        ('image,Class,note\na.jpg,1,"x\nb.jpg,2,y"\nc.jpg,3,z\n', "line 2: a quote"),
        ('image;Class\ra.jpg;"1\rb.jpg;2\r', "line 2: a quote"),
        ('image,Class\na.jpg,"1\nb.jpg,2\n'.encode("utf-16"), "line 2: a quote"),
        ("image,Class\na.jpg,Citroën\n".encode("latin-1"), "line 2: not UTF-8.*'Citroën'.*save"),
        ('image,Class\n"é.jpg",\'1\n'.encode("cp1252"), "line 2: not UTF-8.*'é.jpg'.*save"),
        (b"\x00\x01\x02\x03" * 50, "labels.csv"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "labels.csv"),
    ],
)
def test_what_is_no_label_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(LookalikeError, match=message) as caught:
        list(open_labels(csv(tmp_path, content)))
    assert str(caught.value).isprintable()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", ["x,y\n1,2\n", "", b"image,Class\na.jpg,\xff\n"])
def test_a_wrong_file_is_refused_at_once(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(LookalikeError):
        open_labels(csv(tmp_path, content))  # and not when the first row is asked for


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.symlink_to("x")]
)
def test_no_file(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "labels.csv")
    with pytest.raises(LookalikeError, match=r"cannot read the labels: .*labels\.csv") as caught:
        open_labels(tmp_path / "labels.csv")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("name", "pack"), [("l.csv.gz", gzip.compress), ("l.BZ2", bz2.compress)])
def test_a_packed_file(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(pack(STANFORD.encode()))
    assert labels_of(tmp_path / name) == {"00001.jpg": "14", "00002.jpg": "3"}


def test_a_file_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"la\xffbels\n.csv")
    path.write_text(STANFORD)
    assert len(labels_of(path)) == 2
    path.write_text("image,Class\na.jpg\n")
    with pytest.raises(LookalikeError, match=r"la%FFbels%0A\.csv, line 2: ") as caught:
        open_labels(path)
    assert str(caught.value).isprintable()


def test_no_python_object_is_read_ahead(tmp_path: Path) -> None:
    """Arrow's threads would free it when the interpreter is gone, which aborts the process."""
    store = open_store("memory://labels")
    store.put("x.csv", b"image,Class\na.jpg,red\n")
    (tmp_path / "x.csv").write_bytes(store.get("x.csv"))
    for path in (str(tmp_path / "x.csv"), "memory://labels/x.csv"):
        with labels_module._open(path) as file:
            assert isinstance(file, pa.OSFile)
            assert file.read() == store.get("x.csv")


def test_a_quote_far_up_swallows_nothing(tmp_path: Path) -> None:
    """More than the reader has in memory at a time lies behind it."""
    lines = "".join(f'"{row:06}.jpg",{row}\n' for row in range(ROWS))
    for broken in (lines.replace('77.jpg"', "77.jpg", 1), lines.replace(",77\n", ',"77\n', 1)):
        path = csv(tmp_path, "image,Class\n" + broken)
        with pytest.raises(LookalikeError, match="line 79: a quote") as caught:
            list(open_labels(path))
        assert str(caught.value).isprintable()


ROWS = 120_000  # more than one block of the reader


def test_written_one_batch_at_a_time(tmp_path: Path) -> None:
    lines = "".join(f"{row:06}.jpg,make {row % 7}\n" for row in range(ROWS))
    batches = open_labels(str(csv(tmp_path, "image,Class\n" + lines)))
    first = next(batches)
    assert 0 < first.num_rows < ROWS
    write_labels(batches, tmp_path / "rest.parquet")
    rest = pq.read_table(tmp_path / "rest.parquet")
    assert rest.schema == SCHEMA
    assert first.num_rows + len(rest) == ROWS
    last = {"name": f"{ROWS - 1:06}.jpg", "label": f"make {(ROWS - 1) % 7}"}
    assert rest.slice(len(rest) - 1).to_pylist() == [last]


@pytest.mark.parametrize("last", [b"x.jpg,\xff\n", b"x.jpg\n", b"x,y,z\n", b'x,"y\n1,2\n'])
def test_damage_far_down(tmp_path: Path, last: bytes) -> None:
    lines = b"".join(b"%06d.jpg,%d\n" % (row, row) for row in range(ROWS))
    batches = open_labels(csv(tmp_path, b"image,Class\n" + lines + last))
    with pytest.raises(LookalikeError, match=f"labels.csv, line {ROWS + 2}: ") as caught:
        write_labels(batches, tmp_path / "out.parquet")
    assert str(caught.value).isprintable()
