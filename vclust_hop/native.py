"""Functions of C libraries that Python's standard library does not offer: OpenSSL's, zstd's and the kernel's."""

from __future__ import annotations

import _hashlib
import ctypes
from typing import Any


def _libcrypto() -> Any:
    """The OpenSSL that hashlib uses, 1.1.1 or 3."""
    library = ctypes.CDLL(getattr(_hashlib, "__file__", None))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.EVP_CIPHER_CTX_new.restype = pointer
    library.EVP_CIPHER_CTX_free.argtypes = [pointer]
    library.EVP_CIPHER_CTX_ctrl.argtypes = [pointer, number, number, pointer]
    library.EVP_aes_256_gcm.restype = pointer
    for way in ("Encrypt", "Decrypt"):
        init = getattr(library, f"EVP_{way}Init_ex")
        init.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, ctypes.c_char_p]
        update = getattr(library, f"EVP_{way}Update")
        update.argtypes = [pointer, pointer, ctypes.POINTER(number), pointer, number]
        getattr(library, f"EVP_{way}Final_ex").argtypes = [pointer, pointer, ctypes.POINTER(number)]
    library.memcmp.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.prctl.argtypes = [number, *4 * [ctypes.c_ulong]]
    return library


def _libzstd() -> Any:
    """What dpkg stands on; None on machines without."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.ZSTD_compress.restype = library.ZSTD_decompress.restype = size
    library.ZSTD_compress.argtypes = [pointer, size, pointer, size, ctypes.c_int]
    library.ZSTD_decompress.argtypes = [pointer, size, ctypes.c_char_p, size]
    return library


crypto = _libcrypto()
zstd = _libzstd()
