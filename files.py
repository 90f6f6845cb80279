"""Files that appear whole or not at all, lines that survive a crash, and hashes that name content."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DiskError
from .texts import megabytes

TEMPORARY_PREFIX = ".partial-"  # what a killed process leaves behind bears this prefix
ABANDONED = 3600.0  # seconds: nothing is written while 24 GB are flushed to a slow disk, which takes many minutes
_OWNED = re.compile(re.escape(TEMPORARY_PREFIX) + r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<begun>\d+)-")
_NAME_KEPT = 40  # characters: with what names the owner and at 4 bytes each under the 255 bytes of a file's name
READERS_NEED = 2.0  # seconds: who follows a run opens its small files for some microseconds, ten times a second
_WINDOWS = os.name == "nt"
_HELD = (5, 32, 33, 1224)  # winerror.h: access denied, sharing and lock violation, mapped into memory
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_WRITING = (*_FULL, errno.EROFS, errno.EFBIG)  # which reading never raises
_FULL_IN_WORDS = re.compile(r"os error 112\)|database or disk is full")  # Windows' own number, and SQLite
_NUMBER_IN_WORDS = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)  # safetensors, Arrow
_TORCH_WRITES = re.compile(r"PytorchStreamWriter|inline_container")  # torch.save's errors, which give no reason
_NEARLY_FULL = 1 << 20  # bytes free, with which PyTorch's error without a reason is taken for a full disk
# What the system refuses -> what is wrong, with the folder that it is wrong with, and what to do.
_REFUSED = {
    errno.ENOSPC: "the disk is full, with {free} free in {folder}. Free some space there, and queue again",
    errno.EDQUOT: "your quota is used up, with {free} free in {folder}. Free some space there, and queue again",
    errno.EROFS: "the disk that {folder} is on is read-only. Make it writable, or give ComfyUI another folder "
    "(--base-directory, --output-directory), and queue again",
    errno.EACCES: "the user that ComfyUI runs as has no permission. Give it in {folder}, or close the program that "
    "holds the file, and queue again",
    errno.EPERM: "the system does not permit it. See that the file may be changed and that {folder} may be written to, "
    "and queue again",
    errno.EFBIG: "it is larger than a file may be there (FAT32 ends at 4 GB, and ulimit -f sets a limit). Put {folder} "
    "on another disk, or raise the limit, and queue again",
    errno.ENAMETOOLONG: "its name is too long for the disk that {folder} is on. Choose a shorter name",
    errno.ENOTDIR: "there is a file where a folder is needed. Move that file away, and queue again",
    errno.EISDIR: "there is a folder of that name. Move it away, and queue again",
    errno.EEXIST: "there is a file where a folder is needed. Move that file away, and queue again",
    errno.EIO: "the disk that {folder} is on reports an error of its own. Save what is on it, and look into the "
    "system's log",
}

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(path: str | Path, needed: int = 0) -> Iterator[None]:
    """Have told what is wrong with the disk, and what to do, where the block cannot write `path`.

    Args:
        needed: bytes that it takes; 0 where that is not known.

    Raises:
        DiskError: the block raised what a full or read-only disk, or a folder that may not be written to, makes a
            library or the system raise. Everything else is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if told := disk_error(error, path, needed):
            raise told from error
        raise


def disk_error(error: Exception, path: str | Path = "", needed: int = 0) -> DiskError | None:
    """What to say of an error met while `path` was written; None where the disk has nothing to do with it."""
    if isinstance(error, DiskError):
        return None
    number = _number_of(error, Path(path) if path else None)
    named = Path(path) if path else _named(error)
    if number not in _REFUSED or not (named or number in _OF_WRITING):  # a connection can be refused, too
        return None
    folder = _nearest(named.parent) if named else None
    what = _REFUSED[number].format(folder=folder or "its folder", free=_size(_free(folder)))
    size = f" ({_size(needed)})" if needed else ""
    verb = "written" if path or number in _OF_WRITING else "read or written"
    return DiskError(f"{named or 'A file'}{size} could not be {verb}: {what}.", number)


def _number_of(error: Exception, path: Path | None) -> int:
    """The system's number of an error, also where a library only quotes it; 0 where it is not of writing `path`."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number:
        named = _named(error)
        elsewhere = path and named and path.parent not in (named, *named.parents)
        return 0 if elsewhere and number not in _OF_WRITING else number  # another file, which was read
    if _FULL_IN_WORDS.search(str(error)):
        return errno.ENOSPC
    if (quoted := _NUMBER_IN_WORDS.search(str(error))) and int(quoted[1]) in _OF_WRITING:
        return int(quoted[1])
    silent = path and isinstance(error, RuntimeError) and _TORCH_WRITES.search(str(error))
    free = _free(_nearest(path.parent)) if silent else None
    return errno.ENOSPC if free is not None and free < _NEARLY_FULL else 0


def _named(error: Exception) -> Path | None:
    """The file that the system names, of two the one that was written."""
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return Path(os.fsdecode(named)) if isinstance(named, str | bytes | os.PathLike) else None


def _nearest(folder: Path) -> Path:
    """The folder, or where it is not there yet, the one that it would be made in."""
    return next((above for above in (folder, *folder.parents) if os.path.isdir(above)), folder)


def _free(folder: Path | None) -> int | None:
    try:
        return shutil.disk_usage(folder).free if folder else None
    except OSError:
        return None


def _size(count: int | None) -> str:
    if count is None:
        return "too little"
    return megabytes(count) if count >= 100_000 else f"{count:,} bytes"


@contextlib.contextmanager
def appearing(path: str | Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends, it is flushed to disk and renamed to `path`.

    Works for a file or a folder that the block creates. If the block raises, nothing appears, the temporary is removed.
    An existing file is replaced; an existing folder is replaced too (it is moved away first, then removed).

    Args:
        needed: bytes that it takes; 0 where that is not known.

    Raises:
        DiskError: it cannot be written.
    """
    final = Path(path)
    with writing(final, needed):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(final)
        try:
            yield temporary
            _flush(temporary)
            if final.is_dir():
                discarded = temporary_beside(final)
                os.rename(final, discarded)
                os.rename(temporary, final)
                # What is held open (Windows) goes when somebody tidies up half-written files here.
                shutil.rmtree(discarded, ignore_errors=True)
            else:
                _replace(temporary, final)
            _flush_folder(final.parent)
        finally:
            remove(temporary)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write `content` so that `path` holds either the old or the new content, whatever happens meanwhile.

    Raises:
        DiskError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with appearing(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_changed(path: str | Path, content: str | bytes) -> None:
    """Write as `write_whole` does, unless `path` holds this content already: then not even its time changes."""
    target, data = Path(path), content.encode() if isinstance(content, str) else content
    if not target.exists() or target.read_bytes() != data:
        write_whole(target, data)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Put a file at `target`, where nothing is yet: as a hard link where the file system has them, else as a copy."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def append_line(path: str | Path, line: str) -> None:
    """Append one line (no newline inside) and flush it to disk before returning.

    A crash can leave a last line without its newline; `read_jsonl` leaves such a torso out, and the next append starts
    on a line of its own.
    """
    append_lines(path, [line])


def append_lines(path: str | Path, lines: Sequence[str]) -> None:
    """Append several lines as `append_line` does one, with one flush for all.

    Raises:
        DiskError: they cannot be written.
    """
    target, data = Path(path), "".join(f"{line}\n" for line in lines).encode()
    with writing(target, len(data)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(path: str | Path, **types: type) -> list[dict[str, Any]]:
    """Read the JSON objects of a line file, as `jsonl_records`; a missing file gives none."""
    try:
        return jsonl_records(Path(path).read_text(encoding="utf-8", errors="replace"), **types)
    except FileNotFoundError:
        return []


def jsonl_records(content: str, **types: type) -> list[dict[str, Any]]:
    """The JSON objects in these lines; a line that is unreadable, or has not these types (`has_types`), is left out."""
    records = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            records.append(parsed_json(line))
    return [record for record in records if isinstance(record, dict) and has_types(record, **types)]


def has_types(record: Mapping[str, Any], **types: type) -> bool:
    """Whether a JSON object has a value of the type for every name; a float is any finite number, bool is no int."""
    return all(_is_a(record.get(name), kind) for name, kind in types.items())


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max  # NaN is not, either
    return isinstance(value, kind)


def parsed_json(content: str | bytes) -> Any:
    """The value of a JSON text from outside.

    Raises:
        ValueError: it is no JSON or no UTF-8, is nested too deeply for Python, or has a number of more digits than it
            reads.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def remove(path: str | Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where there is none."""
    target = Path(path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def temporary_beside(path: str | Path) -> Path:
    """A path in the same folder that nothing has; its name says which process it is of, and has `path`'s suffix."""
    final, process = Path(path), os.getpid()
    owner = f"{_machine()}-{process}-{_begun(process)}-{uuid.uuid4().hex[:8]}"
    return final.with_name(f"{TEMPORARY_PREFIX}{owner}-{final.name[-_NAME_KEPT:]}")


def remove_partials(folder: str | Path) -> None:
    """Remove what killed processes left half-written directly in `folder`.

    Several servers may write to one folder: what a living process of this machine has under way stays. Of others
    (another machine that shares the folder, another container, an earlier version) nobody can tell whether they live:
    theirs goes when nothing of it was touched for `ABANDONED`.
    """
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        try:
            if _is_abandoned(leftover):
                remove(leftover)
        except FileNotFoundError:  # its writer was done with it in the meantime
            pass
        except OSError as error:  # it only takes up room; who comes to write there says what is wrong with the folder
            logger.warning("%s, left half-written, cannot be removed: %s", leftover, error)


def is_old(path: Path) -> bool:
    """Whether nothing of a file or folder was written or made for `ABANDONED`."""
    within = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    times = [part.lstat() for part in (path, *within)]
    touched = max(max(of.st_mtime, of.st_ctime) for of in times)  # a hard link has its target's time of writing
    return time.time() - touched > ABANDONED


def _is_abandoned(partial: Path) -> bool:
    owner = _OWNED.match(partial.name)
    if owner and owner["machine"] == _machine():
        with contextlib.suppress(PermissionError):  # another user's, of which the system says nothing
            return _begun(int(owner["process"])) != owner["begun"]
    return is_old(partial)


@functools.cache
def _machine() -> str:
    """Within what a process id tells who is alive: this machine since it was started, or a container of its own."""
    try:
        where = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        where = f"{platform.node()} {uuid.getnode()}"
    return hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:8]


def _begun(process: int) -> str:
    """When a process started, which no other of the same id has in common with it; "" where none is alive.

    Raises:
        PermissionError: it is alive, and the system does not say more.
    """
    if not os.path.exists("/proc/self/stat"):
        import psutil

        try:
            return str(int(psutil.Process(process).create_time() * 1000))
        except psutil.NoSuchProcess:
            return ""
        except psutil.AccessDenied as error:
            raise PermissionError from error
    try:
        state, *numbers = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        with contextlib.suppress(ProcessLookupError, OverflowError):
            os.kill(process, 0)  # raises where the system hides it (hidepid)
        return ""
    return "" if state == b"Z" else numbers[18].decode()  # proc(5): field 22, in clock ticks since the machine's start


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(value: Any, length: int = 16) -> str:
    """Hash a JSON-able value (keys sorted, so that order does not matter) to `length` hexadecimal digits of SHA-256."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A file name that is not UTF-8 has surrogates in it.
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:length]


def _replace(temporary: Path, final: Path) -> None:
    """`os.replace`; on Windows again and again while somebody is reading the old file, which it refuses to replace."""
    last_try = time.monotonic() + (READERS_NEED if _WINDOWS else 0.0)
    while True:
        try:
            return os.replace(temporary, final)
        except PermissionError:
            if time.monotonic() >= last_try:
                raise
            time.sleep(0.02)


def is_held(error: BaseException) -> bool:
    """Whether a file could not be replaced, moved or removed because another program has it open or mapped."""
    cause = error.__cause__ if isinstance(error, DiskError) else error
    return isinstance(cause, PermissionError) or getattr(cause, "winerror", None) in _HELD


def _flush(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    if _WINDOWS:  # it cannot open a folder for flushing; its renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
