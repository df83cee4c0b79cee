"""Ways out of a confined process, each tried once without a lock, where it has to succeed.

A function of READS returns the bytes of `places.secret`, one of WRITES changes something outside
the work folder, one of REACHES gets through to another process; those of NOT_COVERED succeed.
Whatever an attack gets hold of it returns, or leaves in the work folder.
"""

import ctypes
import json
import mmap
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

READS, WRITES, REACHES, NOT_COVERED = {}, {}, {}, {}
ROOT = set()  # attacks that nobody but root can try


def attack(table, *, root=False):
    def register(function):
        table[function.__name__] = function
        if root:
            ROOT.add(function.__name__)
        return function

    return register


@cache
def libc():
    """The C library; the audit hook sees that it is opened."""
    return ctypes.CDLL(None, use_errno=True)


def checked(value):
    """The return value of a C function. Raises OSError where it is -1."""
    if value == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value


def system_call(number, *arguments):
    return checked(libc().syscall(ctypes.c_long(number), *arguments))


def read_descriptor(descriptor):
    return os.pread(descriptor, 100, 0)


def attempt(channel, name, places):
    """Try one attack (a job); return what it got, as text, and the error that stopped it."""
    table = READS | WRITES | REACHES | NOT_COVERED
    try:
        loot = table[name](SimpleNamespace(**places))
    except BaseException as error:
        return {"loot": None, "error": f"{type(error).__name__}: {error}"}
    return {"loot": None if loot is None else bytes(loot).decode("latin1"), "error": None}


# Files.


@attack(READS)
def built_in_open(places):
    with open(places.secret, "rb") as file:
        return file.read()


@attack(READS)
def path_read_bytes(places):
    return Path(places.secret).read_bytes()


@attack(READS)
def os_open(places):
    return read_descriptor(os.open(places.secret, os.O_RDONLY))


@attack(READS)
def os_open_for_writing(places):
    return read_descriptor(os.open(places.secret, os.O_RDWR))


@attack(READS)
def open_relative_to_the_root(places):
    root = os.open("/", os.O_PATH)
    return read_descriptor(os.open(places.secret.lstrip("/"), os.O_RDONLY, dir_fd=root))


@attack(READS)
def open_relative_to_what_is_granted(places):
    folder = os.open(places.granted, os.O_RDONLY)
    relative = os.path.relpath(places.secret, places.granted)
    return read_descriptor(os.open(relative, os.O_RDONLY, dir_fd=folder))


@attack(READS)
def change_folder_first(places):
    os.chdir(Path(places.secret).parent)
    return Path(Path(places.secret).name).read_bytes()


@attack(READS)
def reopen_a_path_descriptor(places):
    handle = os.open(places.secret, os.O_PATH)
    return Path(f"/proc/self/fd/{handle}").read_bytes()


@attack(READS)
def numpy_load(places):
    import numpy as np

    return np.load(places.array).tobytes()


@attack(READS)
def numpy_memory_map(places):
    import numpy as np

    return np.memmap(places.secret, np.uint8, "r").tobytes()


@attack(READS)
def memory_map(places):
    with open(places.secret, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:
        return m[:]


@attack(READS)
def send_file(places):
    source = os.open(places.secret, os.O_RDONLY)
    target = os.open(f"{places.work}/loot", os.O_WRONLY | os.O_CREAT)
    os.sendfile(target, source, 0, 100)


@attack(READS)
def copy_by_shutil(places):
    import shutil

    shutil.copy(places.secret, f"{places.work}/loot")


@attack(READS)
def list_the_folder(places):
    return b" ".join(map(os.fsencode, os.listdir(Path(places.secret).parent)))


@attack(READS)
def walk_the_folders(places):
    names = [name for *_, files in os.walk(Path(places.secret).parent.parent) for name in files]
    return b" ".join(map(os.fsencode, names))


@attack(READS)
def symbolic_link(places):
    link = f"{places.work}/link"
    os.symlink(places.secret, link)
    return Path(link).read_bytes()


@attack(READS)
def symbolic_link_that_was_there(places):
    return Path(places.link).read_bytes()


@attack(READS)
def hard_link(places):
    link = f"{places.work}/link"
    os.link(places.secret, link)
    return Path(link).read_bytes()


@attack(READS)
def move_into_the_work_folder(places):
    os.rename(places.secret, f"{places.work}/moved")
    return Path(f"{places.work}/moved").read_bytes()


@attack(READS)
def exchange_two_files(places):
    mine = Path(places.work) / "mine"
    mine.write_bytes(b"")
    here, there = os.fsencode(mine), os.fsencode(places.secret)
    checked(libc().renameat2(-100, here, -100, there, 2))  # RENAME_EXCHANGE
    return mine.read_bytes()


@attack(READS)
def sqlite_attach(places):
    import sqlite3

    with sqlite3.connect(places.database) as connection:
        return connection.execute("select text from secrets").fetchone()[0].encode()


# Native code.


@attack(READS)
def c_open(places):
    return read_descriptor(checked(libc().open(os.fsencode(places.secret), os.O_RDONLY)))


@attack(READS)
def c_fopen(places):
    libc().fopen.restype = ctypes.c_void_p
    file = libc().fopen(os.fsencode(places.secret), b"rb")
    buffer = ctypes.create_string_buffer(100)
    libc().fread(buffer, 1, 100, ctypes.c_void_p(file)) if file else checked(-1)
    return buffer.raw


@attack(READS)
def system_call_openat(places):
    number = {"x86_64": 257, "aarch64": 56}[platform.machine()]
    path = ctypes.c_char_p(os.fsencode(places.secret))
    return read_descriptor(system_call(number, ctypes.c_int(-100), path, 0, 0))


@attack(READS)
def system_call_openat2(places):
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    path = ctypes.c_char_p(os.fsencode(places.secret))
    return read_descriptor(system_call(437, ctypes.c_int(-100), path, how, len(how)))


@attack(READS, root=True)
def open_by_handle(places):
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    path = os.fsencode(places.secret)
    checked(libc().name_to_handle_at(-100, path, handle, ctypes.byref(mount), 0))
    root = os.open(places.granted, os.O_RDONLY)
    return read_descriptor(checked(libc().open_by_handle_at(root, handle, os.O_RDONLY)))


# Other processes.


@attack(READS)
def subprocess_cat(places):
    return subprocess.run(["cat", places.secret], capture_output=True, check=True).stdout


@attack(READS)
def shell_copy(places):
    os.system(f"cp '{places.secret}' '{places.work}/loot'")


@attack(READS)
def posix_spawn(places):
    arguments = ["cp", places.secret, f"{places.work}/loot"]
    os.waitpid(os.posix_spawn("/bin/cp", arguments, os.environ), 0)


@attack(READS)
def another_interpreter(places):
    code = f"print(open({places.secret!r}).read())"
    arguments = [sys.executable, "-I", "-c", code]
    return subprocess.run(arguments, capture_output=True, check=True).stdout


@attack(READS)
def program_in_memory(places):
    program = os.memfd_create("program", 0)
    os.write(program, f"#!/bin/sh\ncat '{places.secret}'\n".encode())
    path = f"/proc/self/fd/{program}"
    return subprocess.run(["/bin/sh", path], pass_fds=[program], capture_output=True).stdout


@attack(READS)
def forked_child(places):
    end, start = os.pipe()
    if os.fork() == 0:
        try:
            os.write(start, Path(places.secret).read_bytes())
        finally:
            os._exit(0)
    os.close(start)
    return os.read(end, 100)


@attack(READS)
def daemon_that_outlives_the_job(places):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.3)
            try:
                Path(places.work, "loot").write_bytes(Path(places.secret).read_bytes())
            finally:
                os._exit(0)
        os._exit(0)
    os.wait()


@attack(READS)
def thread(places):
    loot = []
    worker = threading.Thread(target=lambda: loot.append(Path(places.secret).read_bytes()))
    threading.excepthook = lambda arguments: None
    worker.start()
    worker.join()
    return b"".join(loot)


@attack(READS)
def signal_handler(places):
    loot = []
    signal.signal(signal.SIGUSR2, lambda *_: loot.append(Path(places.secret).read_bytes()))
    os.kill(os.getpid(), signal.SIGUSR2)
    return b"".join(loot)


@attack(READS)
def own_root(places):
    return Path(f"/proc/self/root{places.secret}").read_bytes()


@attack(READS)
def root_of_the_parent(places):
    return Path(f"/proc/{places.parent}/root{places.secret}").read_bytes()


@attack(READS)
def folder_of_the_parent(places):
    relative = os.path.relpath(places.secret, places.parent_folder)
    return Path(f"/proc/{places.parent}/cwd/{relative}").read_bytes()


@attack(READS)
def open_file_of_the_parent(places):
    return Path(f"/proc/{places.parent}/fd/{places.descriptor}").read_bytes()


@attack(READS)
def inherited_descriptors(places):
    loot = b""
    for descriptor in range(3, 1024):
        try:
            loot += read_descriptor(descriptor)
        except OSError:
            continue
    return loot


@attack(READS)
def descriptor_by_pidfd(places):
    process = system_call(434, ctypes.c_int(places.parent), 0)
    return read_descriptor(system_call(438, ctypes.c_int(process), places.descriptor, 0))


@attack(READS)
def memory_of_the_parent(places):
    with open(f"/proc/{places.parent}/mem", "rb", buffering=0) as memory:
        memory.seek(places.address)
        return memory.read(places.size)


@attack(READS)
def read_the_parents_memory_by_system_call(places):
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(places.size)
    local = Vector(ctypes.addressof(buffer), places.size)
    remote = Vector(places.address, places.size)
    one = ctypes.c_ulong(1)
    checked(
        libc().process_vm_readv(
            places.parent, ctypes.byref(local), one, ctypes.byref(remote), one, ctypes.c_ulong(0)
        )
    )
    return buffer.raw


@attack(READS)
def trace_the_parent(places):
    libc().ptrace.restype = ctypes.c_long
    libc().ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    attach, peek, detach = 16, 2, 17
    checked(libc().ptrace(attach, places.parent, None, None))
    try:
        os.waitpid(places.parent, 0x40000000)  # __WALL
        words = [
            libc().ptrace(peek, places.parent, places.address + offset, None)
            for offset in range(0, places.size, 8)
        ]
    finally:
        libc().ptrace(detach, places.parent, None, None)
    return struct.pack(f"{len(words)}q", *words)


# What root could do.


@attack(READS, root=True)
def bind_mount(places):
    checked(libc().unshare(0x00020000))  # CLONE_NEWNS
    checked(libc().mount(None, b"/", None, 0x44000, None))  # MS_REC | MS_PRIVATE
    inside = Path(places.work) / "inside"
    inside.mkdir()
    checked(
        libc().mount(os.fsencode(Path(places.secret).parent), os.fsencode(inside), None, 4096, None)
    )
    return (inside / Path(places.secret).name).read_bytes()


@attack(READS, root=True)
def other_root_folder(places):
    os.chroot(Path(places.secret).parent)
    return Path("/", Path(places.secret).name).read_bytes()


@attack(READS)
def own_user_namespace(places):
    checked(libc().unshare(0x10000000))  # CLONE_NEWUSER
    checked(libc().unshare(0x00020000))
    return Path(places.secret).read_bytes()


@attack(READS, root=True)
def watch_what_others_open(places):
    """fanotify hands over descriptors of files that other processes open."""
    group = checked(libc().fanotify_init(0, os.O_RDONLY))
    mark = ctypes.c_uint64(0x20)  # FAN_OPEN
    checked(libc().fanotify_mark(group, 1, mark, -100, os.fsencode(places.secret)))
    Path(places.work, "ready").touch()
    event = os.read(group, 24)
    return read_descriptor(struct.unpack("IBBHQii", event)[5])


@attack(REACHES, root=True)
def program_in_the_kernel(places):
    """It could read all of the machine; a map is its first part."""
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    array = struct.pack("IIIII", 2, 4, 8, 1, 0) + bytes(100)  # a map: BPF_MAP_TYPE_ARRAY
    system_call(number, 0, array, len(array))
    return b"loaded"


@attack(REACHES, root=True)
def program_in_the_kernel_by_another_program(places):
    """A program that root starts gets all that root may do, unless it is kept from it."""
    order = json.dumps(["program_in_the_kernel", {}])
    command = [sys.executable, "-I", __file__]
    reply = subprocess.run(command, input=order, capture_output=True, text=True, check=True).stdout
    return (json.loads(reply)["loot"] or "").encode() or None


# Network.


@attack(READS)
def tcp_connection(places):
    with socket.create_connection(("127.0.0.1", places.port), timeout=5) as connection:
        return connection.recv(100)


@attack(REACHES)
def tcp_service(places):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return b"bound"


@attack(READS)
def abstract_socket(places):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(f"\0{places.abstract}")
        return connection.recv(100)


# Signals.


@attack(REACHES)
def signal_to_the_parent(places):
    os.kill(places.parent, signal.SIGUSR1)
    return b"sent"


@attack(REACHES)
def signal_by_pidfd(places):
    process = system_call(434, ctypes.c_int(places.parent), 0)
    system_call(424, ctypes.c_int(process), ctypes.c_int(signal.SIGUSR1), None, 0)
    return b"sent"


@attack(REACHES)
def stop_the_process_that_forked_it(places):
    os.kill(os.getppid(), signal.SIGCONT)
    return b"sent"


# Changes.


@attack(WRITES)
def overwrite(places):
    Path(places.outside, "record.json").write_text("{}")


@attack(WRITES)
def append(places):
    with open(f"{places.outside}/record.json", "a") as file:
        file.write(" ")


@attack(WRITES)
def truncate(places):
    os.truncate(f"{places.outside}/record.json", 0)


@attack(WRITES)
def remove(places):
    os.remove(f"{places.outside}/record.json")


@attack(WRITES)
def remove_a_folder(places):
    import shutil

    shutil.rmtree(f"{places.outside}/results")


@attack(WRITES)
def new_file(places):
    Path(places.outside, "results", "forged.json").write_text("{}")


@attack(WRITES)
def new_folder(places):
    Path(places.outside, "new").mkdir()


@attack(WRITES)
def rename(places):
    os.rename(f"{places.outside}/record.json", f"{places.outside}/other.json")


@attack(WRITES)
def replace_by_own_file(places):
    Path(places.work, "forged").write_text("{}")
    os.replace(f"{places.work}/forged", f"{places.outside}/record.json")


@attack(WRITES)
def plant_code(places):
    Path(places.outside, "sitecustomize.py").write_text("raise SystemExit")


@attack(WRITES)
def plant_bytecode(places):
    sys.dont_write_bytecode = False
    sys.path.insert(0, places.outside)
    import importlib

    importlib.import_module("planted")


@attack(WRITES)
def c_unlink(places):
    checked(libc().unlink(os.fsencode(f"{places.outside}/record.json")))


@attack(WRITES)
def remove_by_a_shell(places):
    os.system(f"rm '{places.outside}/record.json'")


@attack(WRITES)
def mailbox_in_shared_memory(places):
    Path(places.shared).write_text("images")


@attack(WRITES)
def mailbox_in_the_folder_of_temporary_files(places):
    Path(places.temporary).write_text("images")


@attack(WRITES)
def mailbox_at_home(places):
    Path(places.home).write_text("images")


@attack(WRITES)
def write_into_the_parents_memory(places):
    with open(f"/proc/{places.parent}/mem", "r+b", buffering=0) as memory:
        memory.seek(places.score)
        memory.write(struct.pack("d", 1.0))


@attack(WRITES)
def socket_file(places):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{places.outside}/socket")


# What the README says that no lock covers.


@attack(NOT_COVERED)
def size_of_a_file(places):
    return str(os.stat(places.secret).st_size).encode()


@attack(NOT_COVERED)
def mode_of_a_file(places):
    os.chmod(f"{places.outside}/record.json", 0o600)
    return b"changed"


@attack(NOT_COVERED)
def udp_message(places):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"images", ("127.0.0.1", places.port))
        return b"sent"


@attack(NOT_COVERED)
def socket_file_of_a_service(places):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(places.service)
        return connection.recv(100)


@attack(NOT_COVERED)
def shared_memory_of_system_v(places):
    create, remove = 0o1600, 0
    identity = checked(libc().shmget(0x5FDA, 4096, create))
    checked(libc().shmctl(identity, remove, None))
    return b"shared"


def own_memory(channel):
    """Return the kinds of memory of this process that hold a secret (a job).

    Whatever the process was forked from, or was sent, would be there.
    """
    secret, kinds = re.compile(rb"SFDA-SECRE[T]-[0-9a-f]{16}"), []
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        regions = [line.split() for line in maps]
        for span, access, *_, name in regions:
            if access.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                memory.seek(start)
                if secret.search(memory.read(end - start)):
                    kinds.append(name)
    return kinds


if __name__ == "__main__":
    name, places = json.load(sys.stdin)
    print(json.dumps(attempt(None, name, places)))
