"""What a data source is."""

from typing import Protocol, runtime_checkable

from dinojax.data.records import Record


@runtime_checkable
class Source(Protocol):
    """Records by index, ``0 .. len - 1``.

    A run resumes because position determines the record, so order and ids are the same in every
    process and every run. A source is pickled into worker processes and read from many threads at
    once. `record_id(i)` equals `self[i].id` without reading an image.
    """

    @property
    def class_names(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def record_id(self, index: int) -> str: ...


def check_index(index: int, length: int) -> int:
    """`index` itself.

    Raises:
        IndexError: `index` outside 0..length - 1.
    """
    if not 0 <= index < length:
        raise IndexError(f"index={index} must lie in 0..{length - 1}; use 0")
    return index
