import codecs
import errno
import hashlib
import io
import os
import stat
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seclea.client.snapshot.content import memory_content
from seclea.client.snapshot.digest import column_digests, content_digest
from seclea.client.snapshot.files import PayloadFile
from seclea.client.snapshot.metadata import validate_metadata
from seclea.client.snapshot.tables import describe, snapshot_table
from seclea.errors import DatasetError, DatasetNotFoundError, MissingExtraError, UsageError


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool" / "incoming"


@pytest.fixture
def write(tmp_path):
    def write(content: bytes | str, name: str = "in.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def left_behind(spool) -> list[str]:
    return [entry.name for entry in spool.iterdir()] if spool.exists() else []


def refused(data, spool, kind=DatasetError, **more) -> str:
    with pytest.raises(kind) as caught:
        snapshot_table(data, spool, **more)
    assert left_behind(spool) == []
    return str(caught.value)


FRAME = pd.DataFrame(
    {"age": [41, 29, 35], "job": ["cook", None, "cook"], "ok": [True, False, True], "pay": [1.5, 2, 3]}
)


# --- tables in memory


def test_a_frame_is_stored_as_parquet_that_reads_back_equal(spool):
    snapshot = snapshot_table(FRAME, spool)
    raw = snapshot.path.read_bytes()
    assert snapshot.format == "parquet"
    assert (snapshot.size, snapshot.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    pd.testing.assert_frame_equal(pd.read_parquet(snapshot.path), FRAME)
    assert snapshot.digest == content_digest(pq.read_table(snapshot.path))


def test_the_same_table_gives_the_same_file_and_another_name(spool):
    one, two = snapshot_table(FRAME, spool), snapshot_table(FRAME.copy(), spool)
    assert one.sha256 == two.sha256 and one.path != two.path


def test_frame_series_arrow_and_batch_agree(spool):
    arrow = pa.Table.from_pandas(FRAME)
    digest = snapshot_table(FRAME, spool).digest
    assert snapshot_table(arrow, spool).digest == digest
    assert snapshot_table(arrow.to_batches()[0], spool).digest == digest
    assert snapshot_table(FRAME["age"], spool).digest == snapshot_table(FRAME[["age"]], spool).digest


def test_anything_that_offers_an_arrow_table_is_taken(spool):
    class Foreign:
        def __arrow_c_stream__(self, requested_schema=None):
            return pa.table({"a": [1]}).__arrow_c_stream__(requested_schema)

    assert snapshot_table(Foreign(), spool).digest == content_digest(pa.table({"a": [1]}))


def test_a_polars_frame_is_taken_in_its_plain_form(spool):
    class DataFrame:
        __module__ = "polars.dataframe.frame"
        columns = ("a",)

        def to_arrow(self):
            return pa.table({"a": ["x"]})

    snapshot = snapshot_table(DataFrame(), spool)
    assert snapshot.digest == content_digest(pa.table({"a": ["x"]})) and snapshot.metadata["framework"] == "polars"


def test_categories_of_numbers_keep_their_digest_in_the_stored_file(spool):
    for table in (
        pd.DataFrame({"k": pd.Categorical([1, 2, 1])}),
        pa.table({"k": pa.array([1.5, None]).dictionary_encode()}),
    ):
        snapshot = snapshot_table(table, spool)
        assert content_digest(pq.read_table(snapshot.path)) == snapshot.digest


def test_what_changes_after_the_call_is_not_in_the_file(spool):
    frame = pd.DataFrame({"a": np.zeros(1000)})
    snapshot = snapshot_table(frame, spool)
    frame.loc[:, "a"] = 1.0
    assert pd.read_parquet(snapshot.path)["a"].sum() == 0


def test_thousands_of_columns_are_stored(spool):
    frame = pd.DataFrame(np.zeros((2, 2_000)))
    snapshot = snapshot_table(frame, spool)
    assert len(snapshot.metadata["features"]) == 2_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pd.DataFrame(), "is empty: 0 rows, 0 columns"),
        (pd.DataFrame({"a": []}), "is empty: 0 rows, 1 columns"),
        (pd.DataFrame(index=[1, 2]), "is empty: 2 rows, 0 columns"),
        (pa.table({}), "is empty"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame([[1, 2]], columns=[0, "0"]), "several columns named '0'"),
        (pa.table([[1], [2]], ["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame({"mixed": [1, "x"]}), "mixed"),
        (pd.DataFrame({"odd": [object()]}), "odd"),
        (pd.DataFrame({"z": [1j]}), "complex128"),
        (pd.DataFrame({"s": pd.array([0, 1], dtype="Sparse[int]")}), "Sparse pandas data (column s)"),
        (pa.table({"i": pa.nulls(1, pa.month_day_nano_interval())}), "Column 'i' has the type month_day_nano_interval"),
    ],
)
def test_tables_that_cannot_be_recorded_are_refused_by_name(spool, data, words):
    assert words in refused(data, spool)


@pytest.mark.parametrize("data", [None, 5, {"a": [1]}, b"x.csv", [], [FRAME], [["a.csv"]]])
def test_what_is_no_table_is_refused(spool, data):
    assert "Pass a pandas DataFrame" in refused(data, spool, UsageError) or isinstance(data, list)


def test_an_array_is_no_table_because_it_has_no_names(spool):
    assert "pd.DataFrame(X, columns=[…]" in refused(np.zeros((2, 2)), spool, UsageError)
    assert "pd.Series(y, index=X.index" in refused(np.zeros(2), spool, UsageError)


def test_without_pyarrow_the_error_names_the_extra(spool, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'seclea[datasets]'" in refused(FRAME, spool, MissingExtraError)


def test_a_full_disk_leaves_nothing_behind(spool, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PayloadFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        snapshot_table(FRAME, spool)
    assert left_behind(spool) == []


# --- CSV


def test_a_csv_is_stored_byte_for_byte(spool, write):
    content = b'\xef\xbb\xbfname,"age"\r\n"a,b",1\r\n\r\n"x\ny",2'
    snapshot = snapshot_table(write(content), spool)
    assert (snapshot.format, snapshot.path.read_bytes()) == ("csv", content)
    assert snapshot.sha256 == hashlib.sha256(content).hexdigest()
    assert snapshot.digest == content_digest(pa.table({"name": ["a,b", "x\ny"], "age": [1, 2]}))
    assert snapshot.metadata["framework"] == "csv"


CSV = """id,x,gap,all,flag,text,date,when,quoted,code
1,0.1,1,,True,abc,2024-01-01,2024-01-01 10:00:00,"a ""b"",c",007
2,1e300,,,False,NA,2024-02-29,2024-01-01 11:00:00,"line
end",010
3,-0.0,3,,true,é,,2024-01-01 12:00:00,plain,011
"""


def test_a_csv_is_the_table_that_pandas_reads(spool, write):
    frame = pd.read_csv(io.StringIO(CSV))
    assert snapshot_table(write(CSV), spool).digest == snapshot_table(frame, spool).digest


def test_a_frame_written_to_csv_keeps_its_digest(spool, tmp_path):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"x": rng.normal(size=500), "i": rng.integers(-9, 9, 500), "s": rng.choice(["a", "b", None], 500)}
    )
    frame.to_csv(tmp_path / "f.csv", index=False)
    assert snapshot_table(tmp_path / "f.csv", spool).digest == snapshot_table(frame, spool).digest


def test_the_type_of_a_column_is_found_in_all_of_it(spool, write):
    snapshot = snapshot_table(write("a\n" + "1\n" * 600_000 + "x\n"), spool)  # beyond the reader's first block
    assert snapshot.digest == content_digest(pa.table({"a": ["1"] * 600_000 + ["x"]}))


def test_several_files_are_one_table_with_one_header(spool, write):
    parts = [
        write("a,b\n1,x\n2,y", "1.csv"),
        write('\ufeff"a",b\r\n3,z\r\n', "2.csv"),
        write("a,b", "3.csv"),
        write("a,b\n4,é", "4.csv"),
    ]
    snapshot = snapshot_table(parts, spool)
    assert snapshot.path.read_bytes() == "a,b\n1,x\n2,y\n3,z\r\n4,é\n".encode()
    assert snapshot.digest == content_digest(pa.table({"a": [1, 2, 3, 4], "b": ["x", "y", "z", "é"]}))
    assert snapshot.metadata["num_samples"] == 4


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("a,c\n1,2\n", "lacks ['b'] and has ['c'] more"),
        ("b,a\n1,2\n", "has them in another order"),
        ("a,b,c\n1,2,3\n", "it has ['c'] more"),
        ("", "lacks ['a', 'b']"),
    ],
)
def test_files_with_other_columns_are_named(spool, write, second, words):
    message = refused([write("a,b\n1,2\n", "first.csv"), write(second, "second.csv")], spool)
    assert "second.csv has other columns than the first file" in message and words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n", "is empty: 0 rows, 2 columns"),
        (b"a,a\n1,2\n", "several columns named 'a'"),
        (b"a,b\n1,2\n3\n", "no well-formed CSV"),
        (b"a;b;c\n1;2;3\n", "seems to be separated by ';'"),
        (b"a\tb\n1\t2\n", "sep='\\t'"),
        ("name\nM\xfcller\n".encode("latin-1"), "is not UTF-8 text (byte 6)"),
        (b"a\n" + b"x" * (5 << 20) + b"\xc3", f"(byte {2 + (5 << 20)})"),
        (codecs.BOM_UTF16_LE + "a,b\n1,2\n".encode("utf-16-le"), "is not UTF-8 text (byte 0)"),
    ],
)
def test_csv_files_that_are_wrong_are_refused_with_the_place(spool, write, content, words):
    message = refused(write(content), spool)
    assert words in message and "in.csv" in message


def test_a_letter_across_two_blocks_is_no_wrong_byte(spool, write):
    assert snapshot_table(write(b"a\n" + b"x" * ((4 << 20) - 1) + "é\n".encode()), spool).metadata["num_samples"] == 1


def test_a_missing_file_is_named_with_the_working_directory(spool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused("no/such.csv", spool, DatasetNotFoundError)
    assert "'no/such.csv'" in message and str(tmp_path) in message
    with pytest.raises(FileNotFoundError):
        snapshot_table("no/such.csv", spool)


def test_what_is_no_regular_file_is_refused(spool, tmp_path, write):
    assert "is a directory" in refused(tmp_path, spool)
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in refused(tmp_path / "pipe", spool)
    assert "cannot be read" in refused(write("a\n1\n") + "/x", spool)
    assert "cannot be read" in refused("nul\0", spool)


def test_a_file_that_grows_while_it_is_read_is_refused(spool, write, monkeypatch):
    path = write("a\n1\n")
    original = PayloadFile.write

    def growing(self, data):
        with open(path, "a") as file:
            file.write("2\n")
        return original(self, data)

    monkeypatch.setattr(PayloadFile, "write", growing)
    assert "changed while it was read" in refused(path, spool)


# --- metadata


def test_the_table_describes_itself(spool):
    snapshot = snapshot_table(FRAME, spool)
    columns = snapshot.metadata.pop("column_digests")
    assert columns == [list(column[:4]) for column in column_digests(pa.Table.from_pandas(FRAME))]
    assert snapshot.metadata == {
        "num_samples": 3,
        "dataset_type": "tabular",
        "features": ["age", "job", "ok", "pay"],
        "categorical_features": ["job", "ok"],
        "categorical_values": {"job": ["cook"], "ok": [False, True]},
        "outputs_info": {},
        "split": None,
        "roles": None,
        "framework": "pandas",
        "content_digest": snapshot.digest,
    }


def test_what_is_to_be_predicted_is_described(spool):
    frame = FRAME.assign(grade=[1, 2, 1])
    said = {"outputs": ["ok", "job", "grade", "pay"]}
    info = snapshot_table(frame, spool, said).metadata["outputs_info"]
    assert info == {
        "ok": {"type": "classification", "classes": [False, True]},
        "job": {"type": "classification", "classes": ["cook"]},
        "grade": {"type": "classification", "classes": [1, 2]},
        "pay": {"type": "regression", "classes": None},
    }
    numbers = pd.DataFrame({"n": range(30)})
    assert snapshot_table(numbers, spool, {"outputs": "n"}).metadata["outputs_info"]["n"]["type"] == "regression"
    said = {"outputs": "n", "outputs_type": "classification"}
    assert snapshot_table(numbers, spool, said).metadata["outputs_info"]["n"]["classes"] == list(range(30))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"outputs": "grade", "favourable_outcome": "1"}, "'1', which is no value of 'grade'. There are: 1, 2."),
        ({"outputs": "grade", "unfavourable_outcome": 3}, "3, which is no value of 'grade'"),
        ({"outputs": "grade", "favourable_outcome": 1, "unfavourable_outcome": 1}, "are both 1"),
        ({"split": ""}, "metadata[\"split\"] is ''"),
        ({"split": 3}, 'Use a text of 1 to 100 characters: "train"'),
        ({"index": ["nope"]}, "names 'nope', which is no column"),
    ],
)
def test_outcomes_labels_and_indexes_that_make_no_sense_are_refused(spool, said, words):
    with pytest.raises(UsageError) as caught:
        snapshot_table(FRAME.assign(grade=[1, 2, 1]), spool, said)
    assert words in str(caught.value)
    assert left_behind(spool) == []


def test_a_child_takes_over_what_it_does_not_set_as_far_as_it_has_the_columns():
    parent = snapshot_of({"a": [1.0], "b": [2.0], "y": [1]}, {"continuous_features": ["a", "b"], "outputs": ["y"],
                          "outputs_type": "classification", "favourable_outcome": 1, "team": "A"})  # fmt: skip
    child = snapshot_of({"a": [1.0], "ratio": [0.5], "kind": ["x"], "y": [1]}, {}, parent)
    assert child["continuous_features"] == ["a", "ratio"]  # a new column of fractions is continuous, too
    assert (child["outputs"], child["outputs_type"], child["favourable_outcome"]) == (["y"], "classification", 1)
    assert child["categorical_features"] == ["kind", "y"] and "team" not in child
    assert snapshot_of({"a": [1.0], "y": [1]}, {"outputs": None}, parent)["outputs"] is None
    assert snapshot_of({"a": [1.0]}, {}, parent)["outputs"] == []


def snapshot_of(columns, said, parent=None):
    return describe(memory_content(pd.DataFrame(columns)), said, parent)


def test_what_the_user_says_is_checked_and_joined(spool):
    said = {
        "outputs": "ok",
        "outputs_type": "classification",
        "continuous_features": ("age", "pay"),
        "team": "A",
        "num_samples": 9,
    }
    metadata = snapshot_table(FRAME, spool, said).metadata
    assert metadata["outputs"] == ["ok"] and metadata["team"] == "A" and metadata["num_samples"] == 3
    assert metadata["categorical_features"] == ["job", "ok"]


def test_an_index_of_dates_makes_a_time_series(spool):
    frame = FRAME.set_index(pd.date_range("2024", periods=3, name="day"))
    assert snapshot_table(frame, spool).metadata["dataset_type"] == "time_series"
    assert snapshot_table(frame, spool, {"index": "day"}).metadata["index"] == "day"


def test_values_of_categories_are_bounded(spool):
    frame = pd.DataFrame(
        {"many": [str(n) for n in range(101)], "some": [str(n % 100) for n in range(101)], "long": ["x" * 70_000] * 101}
    )
    metadata = snapshot_table(frame, spool).metadata
    assert metadata["categorical_features"] == ["many", "some", "long"]
    assert list(metadata["categorical_values"]) == ["some"] and len(metadata["categorical_values"]["some"]) == 100


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([("outputs", "a")], "metadata must be a dict, not list"),
        ({1: 2}, "has the key 1, which is no text. Use '1'"),
        ({"outcome_name": "ok"}, 'Use "outputs"'),
        ({"outputs": ["agee"]}, "'agee', which is no column. Did you mean 'age'?"),
        ({"continuous_features": ["zzz"]}, "Columns: age, job, ok, pay."),
        ({"outputs": 5}, "must be a list of column names, not 5"),
        ({"index": "zzz"}, "which is no column"),
        ({"outputs_type": "ranking"}, "Use 'classification' or 'regression'"),
        ({"dataset_type": "image"}, "Use 'tabular' or 'time_series'"),
    ],
)
def test_metadata_that_is_wrong_is_refused(spool, metadata, words):
    assert words in refused(FRAME, spool, UsageError, metadata=metadata)


def test_nothing_said_is_nothing(spool):
    assert validate_metadata(None, ["a"]) == {}
    assert validate_metadata({"outputs": None}, ["a"]) == {"outputs": None}


def test_many_threads_may_snapshot_at_once(spool):
    found = []
    threads = [threading.Thread(target=lambda: found.append(snapshot_table(FRAME, spool))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.path for item in found}) == 8 and len({item.sha256 for item in found}) == 1
