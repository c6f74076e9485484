"""Whose fault it is that a record cannot be read, and the second attempt."""

import errno
import io
import os

import pytest
from images import ArraySource
from PIL import Image

from dinojax.data import reading
from dinojax.data.reading import read_record
from dinojax.data.threads import StorageError


def numbered(number: int) -> OSError:
    return OSError(number, os.strerror(number))


OF_THE_MACHINE = [
    *map(numbered, (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT)),
    *map(numbered, (errno.ENOTCONN, errno.EREMOTEIO, errno.EUCLEAN, errno.ECONNRESET)),
    *(TimeoutError("timed out"), StorageError("a shard has gone")),
]


class Failing(ArraySource):
    """Raises these errors, one at each attempt, before it gives what is asked for."""

    def __init__(self, *errors: Exception):
        super().__init__(3)
        self.errors = list(errors)

    def __getitem__(self, index):
        if self.errors:
            raise self.errors.pop(0)
        return super().__getitem__(index)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(reading.time, "sleep", found.append)
    return found


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=repr)
def test_the_machine_gets_one_more_attempt(error, pauses):
    assert read_record(Failing(error), 2).id == "array/2"
    assert pauses == [reading.PAUSE_S]
    with pytest.raises(StorageError) as raised:
        read_record(Failing(error, error), 2)
    text = str(raised.value)
    assert text.startswith("record 'array/2' cannot be read for a reason that is not the file's: ")
    assert str(error) in text and text.endswith("or leave the record out by data.ids")


@pytest.mark.parametrize(
    "error",
    [
        *map(numbered, (errno.ENOENT, errno.EACCES, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG)),
        *(ValueError("damaged"), OSError("image file is truncated")),
    ],
    ids=repr,
)
def test_the_file_gets_none(error, pauses):
    with pytest.raises(type(error)) as raised:
        read_record(Failing(error), 2)
    assert raised.value is error and not pauses


def test_what_decoders_raise_has_no_number(pauses):
    with pytest.raises(OSError) as raised:
        Image.open(io.BytesIO(b"no image"))
    assert not reading.by_storage(raised.value)


def test_an_error_may_become_the_file_s(pauses):
    """A file deleted by another host is a stale handle first, and then not there."""
    gone = numbered(errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        read_record(Failing(numbered(errno.ESTALE), gone), 0)
