"""Imported by Python itself at its start: notes what the process writes and connects to, and sends nothing anywhere.

The file that IMPASTO_WATCH names gets a line of JSON each: ["write", path], ["connect", address], ["look up", host].
"""

import json
import os
import socket
import sys

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Event -> places among its arguments of each path and of the folder that it is relative to, None where there is none:
# https://docs.python.org/3/library/audit_events.html
_CHANGING = {
    "os.link": ((1, 3),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "shutil.rmtree": ((0, None),),
    "sqlite3.connect": ((0, None),),
}
_notes = os.open(os.environ["IMPASTO_WATCH"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _note(kind, what):
    os.write(_notes, json.dumps([kind, what]).encode() + b"\n")


def _watch(event, arguments):
    if event == "open":
        if arguments[2] & _WRITING:
            _note_write(arguments[0])
    elif event in _CHANGING:
        for path, folder in _CHANGING[event]:
            _note_write(arguments[path], -1 if folder is None else arguments[folder])
    elif event == "socket.getaddrinfo":
        host = arguments[0]
        if host is not None and not _is_loopback(host):
            _note("look up", os.fsdecode(host))
            raise socket.gaierror(socket.EAI_NONAME, "names are not looked up here")
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        _note("connect", str(arguments[1]))
        raise ConnectionRefusedError("nothing is connected to here")


def _note_write(path, folder=-1):
    if isinstance(path, int):  # a file that is open already
        return
    place = os.fsdecode(path).removeprefix("file:").partition("?")[0]  # SQLite also takes a URL
    base = os.getcwd() if folder == -1 else os.readlink(f"/proc/self/fd/{folder}")
    _note("write", os.path.realpath(os.path.join(base, place)))


def _is_loopback(host):
    return os.fsdecode(host) in ("127.0.0.1", "::1", "localhost")


sys.addaudithook(_watch)
