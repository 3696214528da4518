"""A table that is kept by columns: a hundred thousand rows of mappings would take gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, overload

Row = Mapping[str, Any]


class Table(Sequence[Row]):
    """Rows that are made when they are asked for.

    Args:
        columns: Name of a column -> its values, a missing one None; all of one length.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.columns = dict(columns)
        self._length = len(next(iter(self.columns.values()), ()))
        assert all(len(values) == self._length for values in self.columns.values())

    @classmethod
    def of(cls, rows: Sequence[Row], names: Sequence[str] = ()) -> Self:
        """Return rows as a table; `names` are its columns where there is no row."""
        return cls({name: [row[name] for row in rows] for name in (rows[0] if rows else names)})

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        return {name: values[index] for name, values in self.columns.items()}

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(self._length))
