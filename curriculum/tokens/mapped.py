"""A file mapped for reading without a descriptor held open, so that a mixture of 10,000 sources needs no more of them.

`mmap.mmap` keeps a copy of the descriptor as long as the map lives (CPython 3.13 can be told not to), and a process is
often allowed 1,024. The map itself needs none: it keeps the file that it was made of, also when another takes its name.
"""

import ctypes
import mmap
import os
import weakref

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def map_file(descriptor: int, size: int) -> memoryview:
    """The first `size` bytes, at least 1, of an open file, read-only, for as long as anything refers to the view.

    The descriptor may be closed. Raises OSError: ENOMEM where the process has as many maps as the system lets it
    (/proc/sys/vm/max_map_count, 65,530 unless raised).
    """
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    pages = (ctypes.c_char * size).from_address(address)
    weakref.finalize(pages, _LIBC.munmap, address, size).atexit = False
    return memoryview(pages).cast("B").toreadonly()
