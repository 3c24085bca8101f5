"""Block tags, encryption and compression of single blocks."""

from __future__ import annotations

import ctypes
import hmac
import mmap
import struct

from vclust_hop import native
from vclust_hop.wire import Failed

_GET_TAG, _SET_TAG = 0x10, 0x11  # EVP_CTRL_AEAD_…
TAG = 16


class Seal:
    """Room for one block, and its tag: AES-256-GCM, the block as associated data (GMAC) or, on request, encrypted.

    The nonce is item and block.  A key is one transfer's, and the head tags every block once, so no nonce ever
    serves for two contents.  For one thread.
    """

    def __init__(self, key: bytes, block: int, encrypt: bool = False) -> None:
        self.encrypt = encrypt
        self.view, self._at = self._room(block)
        """The block's bytes."""
        self.wire = self.view
        """As they travel."""
        self._wire_at: int | None = None
        if encrypt:
            self.wire, self._wire_at = self._room(block)
        self._tag = ctypes.create_string_buffer(TAG)
        self._length = ctypes.c_int()
        self._out = native.crypto.EVP_CIPHER_CTX_new()
        self._in = native.crypto.EVP_CIPHER_CTX_new()
        self._do(
            native.crypto.EVP_EncryptInit_ex(self._out, native.crypto.EVP_aes_256_gcm(), None, key, None)
        )
        self._do(native.crypto.EVP_DecryptInit_ex(self._in, native.crypto.EVP_aes_256_gcm(), None, key, None))

    def __del__(self) -> None:
        native.crypto.EVP_CIPHER_CTX_free(self._out)
        native.crypto.EVP_CIPHER_CTX_free(self._in)

    @staticmethod
    def _room(size: int) -> tuple[memoryview, int]:
        room = mmap.mmap(-1, size)
        return memoryview(room), ctypes.addressof(ctypes.c_char.from_buffer(room))

    def tag(self, item: int, block: int, size: int) -> bytes:
        """Of the first `size` bytes of `view`, which are then in `wire`; a size of 0 stands for a block of zeros."""
        context, length = self._out, ctypes.byref(self._length)
        self._do(native.crypto.EVP_EncryptInit_ex(context, None, None, None, struct.pack("!IQ", item, block)))
        self._do(native.crypto.EVP_EncryptUpdate(context, self._wire_at, length, self._at, size))
        self._do(native.crypto.EVP_EncryptFinal_ex(context, self._tag, length))
        self._do(native.crypto.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG, self._tag))
        return self._tag.raw

    def fits(self, tag: bytes, item: int, block: int, size: int) -> bool:
        """Whether the first `size` bytes of `wire` have that tag; they are then in `view`."""
        if not self.encrypt or size == 0:
            return hmac.compare_digest(tag, self.tag(item, block, size))
        context, length = self._in, ctypes.byref(self._length)
        self._tag.raw = tag
        self._do(native.crypto.EVP_DecryptInit_ex(context, None, None, None, struct.pack("!IQ", item, block)))
        self._do(native.crypto.EVP_DecryptUpdate(context, self._at, length, self._wire_at, size))
        self._do(native.crypto.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG, self._tag))
        return bool(native.crypto.EVP_DecryptFinal_ex(context, self._tag, length) == 1)

    def pack(self, size: int) -> bytes | None:
        """The first `size` bytes of `view`, compressed; None where that saves too little."""
        room = ctypes.create_string_buffer(size * 7 // 8)
        packed = native.zstd.ZSTD_compress(room, len(room), self._at, size, 1)
        return None if native.zstd.ZSTD_isError(ctypes.c_size_t(packed)) else ctypes.string_at(room, packed)

    def unpack(self, packed: bytes, size: int) -> bool:
        """Whether these are `size` bytes, compressed; they are then in `view`."""
        return bool(native.zstd.ZSTD_decompress(self._at, size, packed, len(packed)) == size)

    def is_zero(self, size: int) -> bool:
        """Whether the first `size` bytes of `view`, at least one, are zeros."""
        return self.view[0] == 0 and native.crypto.memcmp(self._at, self._at + 1, size - 1) == 0

    @staticmethod
    def _do(result: int) -> None:
        if result != 1:
            raise Failed("libcrypto does not do AES-GCM")
