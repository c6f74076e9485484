"""One record of a source; and where it cannot be read, whether that is the file's fault."""

import errno
import time

from dinojax.data.records import Record
from dinojax.data.source import Source
from dinojax.data.threads import StorageError

PAUSE_S = 1.0
"""Before the second and last attempt, where the first one says nothing about the file."""

OF_THE_FILE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM),
    }
)
"""Errors that will be there at the next attempt too."""


def read_record(source: Source, index: int, attempts: int = 2) -> Record:
    """The record at `index`; where the storage fails, after a pause and one more attempt.

    Raises:
        ValueError, OSError: it is damaged, gone or forbidden, at every attempt.
        StorageError: anything else: luck must not decide what a batch holds.
    """
    try:
        return source[index]
    except (OSError, StorageError) as error:
        if isinstance(error, OSError) and not by_storage(error):
            raise
        if attempts == 1:
            raise StorageError(
                f"record {source.record_id(index)!r} cannot be read for a reason that is not the "
                f"file's: {error}; see to the machine or its storage and run the same command "
                "again; if it fails for ever, restore the file, or leave the record out by data.ids"
            ) from error
    time.sleep(PAUSE_S)
    return read_record(source, index, attempts - 1)


def by_storage(error: OSError) -> bool:
    """Whether it says nothing about the file, as EIO, ESTALE, EMFILE or ETIMEDOUT.

    So does what nobody has thought of yet. An error without a number comes from a decoder. Of a
    checkpoint `dinojax.runtime.stored_state` thinks alike, but that one is not passed over which is
    forbidden, or fails without a number.
    """
    if error.errno is None:
        return isinstance(error, TimeoutError | ConnectionError)
    return error.errno not in OF_THE_FILE
