"""Finds and loads the native library, once; turns a status into an exception, in one place."""

import ctypes
import os
import sys
import threading
from pathlib import Path

from . import _abi


class FlashAttentionError(RuntimeError):
    """A call of the native library failed.

    ``status`` is the fa_status value, ``status_name`` its name; the message names the argument, what was expected and what came.
    """

    def __init__(self, status, status_name, message):
        super().__init__(f"{message} [{status_name}]")
        self.status = status
        self.status_name = status_name


_lock = threading.Lock()
_library = None
_path = None


def _file_name():
    if sys.platform == "win32":
        return "flash_attention.dll"
    return "libflash_attention.dylib" if sys.platform == "darwin" else "libflash_attention.so"


def _candidates():
    explicit = os.environ.get("FLASH_ATTENTION_LIBRARY")
    if explicit:
        # An explicit path is meant: nothing else is tried.
        yield explicit
        return
    here = Path(__file__).resolve().parent
    yield str(here / _file_name())
    for parent in here.parents:
        if (parent / "native" / "CMakeLists.txt").is_file():
            for folder in ("build", "build-cpu"):
                yield str(parent / "native" / folder / _file_name())
            break
    yield _file_name()


def _load():
    tried = []
    for candidate in _candidates():
        try:
            library = ctypes.CDLL(candidate)
        except OSError as error:
            reason = str(error)
            tried.append(f"  {reason if reason.startswith(candidate) else f'{candidate}: {reason}'}")
            continue
        _abi.declare(library)
        found = library.fa_abi_version()
        if found != _abi.FA_ABI_VERSION:
            raise ImportError(f"{candidate} has ABI version {found}; this package needs {_abi.FA_ABI_VERSION}. Install matching versions of both.")
        return library, candidate
    raise ImportError(
        "The native library of flash_attention could not be loaded. Tried:\n"
        + "\n".join(tried)
        + "\nBuild it with ./build.sh, or set FLASH_ATTENTION_LIBRARY to its path."
    )


def library():
    """The loaded library (ctypes.CDLL) with all prototypes declared."""
    global _library, _path
    if _library is None:
        with _lock:
            if _library is None:
                _library, _path = _load()
    return _library


def library_path():
    """Path (or name) under which the native library was loaded."""
    library()
    return _path


def version():
    """Version of the native library, e.g. "0.2.0"."""
    return library().fa_version().decode()


def build_info():
    """How the native library was built: compiler, CUDA toolkit, CPU instruction set in use."""
    return library().fa_build_info().decode()


def check(status):
    """Raises FlashAttentionError unless status is FA_STATUS_OK."""
    if status != _abi.FA_STATUS_OK:
        native = library()
        raise FlashAttentionError(status, native.fa_status_name(status).decode(), native.fa_last_error_message().decode())
