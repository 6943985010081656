"""CSV files as they come in: copied first, then read from the copy, so that what is recorded is what was looked at.

How the copy is read is part of the digest's definition (docs/digest.md, "CSV"): the table is the one that
`pandas.read_csv` makes of an ordinary file.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from seclea.client.snapshot.files import PayloadFile
from seclea.errors import DatasetError, DatasetNotFoundError

_BLOCK_BYTES = 4 << 20
_HEADER_BYTES = 4 << 20  # a first line that is longer is no header
_ROW_BYTES = (1 << 20, 32 << 20, 1 << 30)  # read in blocks of this size; a row must fit one, so a larger one is next
_MISSING = "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"

Paths = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class CopiedCsv:
    """What was copied: names of the columns, whether a quote and a "0x" occur anywhere, and what to call it in messages."""

    columns: list[str]
    quoted: bool
    hexadecimal: bool
    shown: str


def copy_csv(paths: Paths, target: PayloadFile) -> CopiedCsv:
    """Copy one file as it is, or several as one with a single header.

    Raises:
        DatasetNotFoundError: one of them does not exist.
        DatasetError: one is a directory, is not UTF-8, changes while it is read or has other columns than the first.
    """
    copies = [_Copy(path) for path in paths]
    columns: list[str] = []
    for number, copy in enumerate(copies):
        names = copy.into(target, columns if number else None, alone=len(paths) == 1)
        columns = columns or names
    if len(columns) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns[0]), "")):
        raise DatasetError(
            f"{copies[0].shown} has one column, named {columns[0]!r}: it seems to be separated by {mark!r}.",
            f"Read it with pandas.read_csv(path, sep={mark!r}) and upload the DataFrame.",
        )
    shown = copies[0].shown + (f" (with {len(paths) - 1} more)" if len(paths) > 1 else "")
    return CopiedCsv(columns, any(copy.quoted for copy in copies), any(copy.hexadecimal for copy in copies), shown)


class _Copy:
    """One file on its way into the target."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.shown = os.fspath(path)
        self.quoted = False
        self.hexadecimal = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._checked = 0
        if not isinstance(self.shown, str):
            raise DatasetError(f"A path must be text, not {self.shown!r}.", "Use os.fsdecode(path).")

    def into(self, target: PayloadFile, columns: list[str] | None, *, alone: bool) -> list[str]:
        """Append the file, without its header where ``columns`` are those of the first file. Returns its columns."""
        with self._open() as source:
            before = os.fstat(source.fileno())
            header = self._header(source)
            try:
                names = next(csv.reader([header.decode("utf-8-sig").strip("\r\n")]), [])
            except csv.Error:  # a quote inside a name, a line of spaces before the names, ...
                raise _no_header(self.shown) from None
            if columns is not None and names != columns:
                raise self._other_columns(columns, names)
            last = b"\n"
            if alone:
                target.write(header)
            elif columns is None:
                target.write(header.removeprefix(codecs.BOM_UTF8).strip(b"\r\n") + b"\n")
            left = before.st_size - len(header)  # no further: somebody may be appending faster than we read
            while block := source.read(min(_BLOCK_BYTES, max(left, 0))):
                left -= len(block)
                self._check(block)
                target.write(block)
                last = block
            self._check(b"", final=True)
            if not alone and not last.endswith((b"\n", b"\r")):
                target.write(b"\n")
            after = os.fstat(source.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DatasetError(f"{self.shown} changed while it was read.", "Upload it once it is complete.")
        return names

    def _open(self) -> IO[bytes]:
        try:
            mode = os.stat(self.path).st_mode
            if stat.S_ISDIR(mode):
                raise DatasetError(f"{self.shown} is a directory, not a CSV file.", "Name the files in it as a list.")
            if not stat.S_ISREG(mode):
                raise DatasetError(f"{self.shown} is no regular file.", "Copy it to a file first.")
            return open(self.path, "rb")
        except FileNotFoundError:
            raise DatasetNotFoundError(
                f"There is no file {self.shown!r} (working directory: {os.getcwd()}).", "Check the path."
            ) from None
        except (OSError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            reason = error.strerror if isinstance(error, OSError) else error
            raise DatasetError(f"{self.shown!r} cannot be read: {reason}.") from None

    def _header(self, source: IO[bytes]) -> bytes:
        """The first line that is not blank, with its end (and the blank ones before it)."""
        start = source.read(_HEADER_BYTES)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise self._not_utf8(0)
        inside, end, begin = False, len(start), 0
        for match in re.finditer(rb'"|\r\n|\n|\r', start):
            if match[0] == b'"':
                inside = not inside
            elif not inside:
                if start[begin : match.start()].removeprefix(codecs.BOM_UTF8).strip():
                    end = match.end()
                    break
                begin = match.end()
        source.seek(end)
        self._check(start[:end])
        return start[:end]

    def _check(self, block: bytes, *, final: bool = False) -> None:
        pending = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            raise self._not_utf8(self._checked - pending + error.start) from None
        self._checked += len(block)
        self.quoted = self.quoted or b'"' in block
        # A block may end between the two characters.
        self.hexadecimal = self.hexadecimal or bool(re.search(b"^[xX]|0[xX]", block))

    def _not_utf8(self, offset: int) -> DatasetError:
        return DatasetError(
            f"{self.shown} is not UTF-8 text (byte {offset}).",
            "Save it as UTF-8, or read it with pandas.read_csv(path, encoding=...) and upload the DataFrame.",
        )

    def _other_columns(self, columns: list[str], names: list[str]) -> DatasetError:
        missing = [name for name in columns if name not in names]
        added = [name for name in names if name not in columns]
        parts = [f"lacks {missing[:5]}" if missing else "", f"has {added[:5]} more" if added else ""]
        difference = " and ".join(part for part in parts if part) or "has them in another order"
        return DatasetError(f"{self.shown} has other columns than the first file: it {difference}.")


def _no_header(shown: str) -> DatasetError:
    return DatasetError(f"The header of {shown} cannot be read.", "Write the names on one line, by commas.")


def read_csv(path: Path, copied: CopiedCsv) -> Any:
    """The copy as a `pyarrow.Table`.

    Raises:
        DatasetError: rows of different length, and whatever else is no CSV.
    """
    import pyarrow as pa

    def is_doubtful(kind: Any) -> bool:
        # Dates stay text, as in pandas: whether a text is one is not for a digest to guess. And Arrow takes 0x1F for 31.
        return bool(pa.types.is_temporal(kind) or (copied.hexadecimal and pa.types.is_integer(kind)))

    try:
        table = _read(path, copied, {})
        doubtful = [field.name for field in table.schema if is_doubtful(field.type)]
        if doubtful:
            texts = _read(path, copied, dict.fromkeys(doubtful, pa.string()))
            for name in doubtful:
                number = table.schema.get_field_index(name)
                if pa.types.is_temporal(table.schema.types[number]) or _has_hexadecimal(texts.column(name)):
                    table = table.set_column(number, name, texts.column(name))
    except pa.ArrowException as error:
        if "Empty CSV" in str(error):
            raise DatasetError(f"{copied.shown} is empty.") from None
        raise DatasetError(f"{copied.shown} is no well-formed CSV: {error}.") from None
    if table.column_names != copied.columns:
        raise _no_header(copied.shown)
    for number, field in enumerate(table.schema):
        column = table.column(number)
        name = field.name or f"Unnamed: {number}"
        if pa.types.is_null(field.type) or (pa.types.is_integer(field.type) and column.null_count):
            column = column.cast(pa.float64(), safe=False)
        table = table.set_column(number, name, column)
    return table


def _has_hexadecimal(texts: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring(texts, "0x", ignore_case=True)).as_py())


def _read(path: Path, copied: CopiedCsv, only: dict[str, Any]) -> Any:
    import pyarrow as pa
    import pyarrow.csv as reader

    convert = reader.ConvertOptions(
        null_values=["", *_MISSING.split("|")],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["True", "TRUE", "true"],
        false_values=["False", "FALSE", "false"],
        column_types=only,
        include_columns=list(only),
    )
    # A line end inside quotes costs half the speed, so only where there are quotes.
    parse = reader.ParseOptions(newlines_in_values=copied.quoted)
    for block_bytes in _ROW_BYTES:
        read = reader.ReadOptions(block_size=block_bytes)
        try:
            return reader.read_csv(str(path), read_options=read, parse_options=parse, convert_options=convert)
        except pa.ArrowInvalid as error:
            if (
                "straddl" not in str(error) or block_bytes == _ROW_BYTES[-1]
            ):  # the one sign of a row larger than a block
                raise
    raise AssertionError
