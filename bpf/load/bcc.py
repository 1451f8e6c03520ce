"""Compiling and loading the programs. The only module that imports bcc, and only the attaching process calls it.

bcc wants the running kernel's headers; the small tree in program/include/ stands in for the few it really needs, and the
rest comes from linux-libc-dev. bcc itself is the distribution's package (python3-bpfcc).

The program's maps are opened here, by their pins, and bcc gets their descriptors' numbers: so CAP_BPF, CAP_NET_ADMIN and
CAP_PERFMON are enough. Without the last one the verifier lets no program compare pointers, and guards each access against
speculation, which costs packets time.
"""

from __future__ import annotations

import functools
import os
import sysconfig
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import syscall
from qosctl.bpf.load import kernel_layout
from qosctl.bpf.load.programs import CARRY, EGRESS, TUN_READS, Program

SOURCES = Path(__file__).parent.parent / "program"
"""The folder of the programs, as it is installed."""
_KERNEL_SOURCE = "BCC_KERNEL_SOURCE"  # read by bcc when it compiles
_NO_DEBUG_INFORMATION = "-g0"  # bcc asks for it: a seventh of the compiler's time, and nobody reads it
_STATE_MAPS, _DEVICE_MAPS = ("control", "policy", "flow_slots", "rings"), ("counters",)
_READS_MAPS, _CARRIED_MAP = ("patterns", "queues", "empty_queue", "reads"), "carried"


class BccLoader:
    """Compiles the program where it is to run; see loader.Loader."""

    def __init__(self, sources: Path) -> None:
        """`sources` is the folder with the programs."""
        self._sources = sources

    def load(self, state: Path, device: Path, *, ethernet: bool) -> int:
        """See loader.Loader.load. The sources are read each time, and compiled unless these very ones have been."""
        pins = [state / name for name in _STATE_MAPS] + [device / name for name in _DEVICE_MAPS]
        flags = [f"-DLINK_ETHERNET={int(ethernet)}"]
        follow = state / "follow"
        if (follow / "queues").exists():
            pins += [follow / name for name in _READS_MAPS]
            flags += ["-DFOLLOWING", *_constants(kernel_layout.following())]
        if (follow / _CARRIED_MAP).exists():
            pins.append(follow / _CARRIED_MAP)
            flags.append("-DCARRYING")
        return self._load(EGRESS, pins, flags)

    def load_tun_reads(self, state: Path, namespace: int) -> int:
        """See loader.Loader.load_tun_reads."""
        pins = [state / "control", *(state / "follow" / name for name in _READS_MAPS)]
        return self._load(TUN_READS, pins, [f"-DNAMESPACE={namespace}ULL", *_constants(kernel_layout.following())])

    def load_carry(self, state: Path, device: Path, namespace: int) -> int:
        """See loader.Loader.load_carry."""
        pins = [state / "control", state / "follow" / _CARRIED_MAP, *(device / name for name in _DEVICE_MAPS)]
        return self._load(CARRY, pins, [f"-DNAMESPACE={namespace}ULL", *_constants(kernel_layout.wireguard())])

    def _load(self, program: Program, pins: Sequence[Path], flags: Sequence[str]) -> int:
        if not Path("/usr/include/linux/bpf.h").exists():
            raise RefusedError("the kernel's user-space headers are missing", "apt install linux-libc-dev")
        with ExitStack() as stack:
            maps = dict(_opened(pins, stack))
            return _compiled(program, _Sources.read(self._sources), tuple(maps), tuple(flags)).load(maps)


def _constants(layout: Mapping[str, int]) -> list[str]:
    return [f"-D{name}={value}" for name, value in layout.items()]


@dataclass(frozen=True)
class _Sources:
    """A folder of sources: the same as another one whose files hold the same."""

    folder: Path = field(compare=False)
    text: bytes

    @classmethod
    def read(cls, folder: Path) -> _Sources:
        return cls(folder, b"".join(path.read_bytes() for path in sorted(folder.glob("*.[ch]"))))


class _Compiled:
    """The program behind the compiler, which is most of the work: it can be loaded for one device after the other.

    The numbers of its maps' descriptors stand in its instructions. So it keeps a number for each map, and puts the map of
    the device under it while the kernel takes the program.
    """

    def __init__(self, program: Program, sources: Path, names: Sequence[str], flags: Sequence[str]) -> None:
        try:
            from bcc import BPF  # noqa: PLC0415 - 100 MB that only the attaching process shall pay
        except ImportError as error:
            hint = "apt install python3-bpfcc, and a venv with --system-site-packages"
            raise RefusedError("bcc is missing", hint) from error
        with ExitStack() as stack:
            self._nothing = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, self._nothing)
            self._numbers = {name: os.dup(self._nothing) for name in names}
            for number in self._numbers.values():
                stack.callback(os.close, number)
            numbers = [f"-D{name.upper()}_MAP={number}" for name, number in self._numbers.items()]
            with _kernel_source(sources), _refusing():
                self._module = BPF(src_file=os.fsencode(sources / program.source), cflags=[*flags, *numbers])
            stack.callback(self._module.cleanup)
            weakref.finalize(self, stack.pop_all().close)
        self._entry = program.entry.encode()
        self._kind: int = getattr(BPF, program.kind.value)

    def load(self, maps: Mapping[str, int]) -> int:
        """Let the kernel take the program with these maps, by name, and return its descriptor."""
        try:
            for name, number in self._numbers.items():
                os.dup2(maps[name], number, inheritable=False)
            with _refusing():
                self._module.load_func(self._entry, self._kind)
        finally:
            for number in self._numbers.values():
                os.dup2(self._nothing, number, inheritable=False)
        descriptor: int = self._module.funcs.pop(self._entry).fd  # bcc would give the same one again
        return descriptor


@functools.lru_cache(maxsize=4)
def _compiled(program: Program, sources: _Sources, names: tuple[str, ...], flags: tuple[str, ...]) -> _Compiled:
    """Compile the sources, unless these very ones have been."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    paths = [f"-I{sources.folder}", "-I/usr/include", f"-I/usr/include/{multiarch}"]
    return _Compiled(program, sources.folder, names, [*flags, *paths, _NO_DEBUG_INFORMATION])


def _opened(pins: Sequence[Path], stack: ExitStack) -> Iterator[tuple[str, int]]:
    """Open what is pinned, and yield each map's name and descriptor."""
    for pin in pins:
        with suppress(FileNotFoundError):  # a program that needs it does not compile
            descriptor = syscall.obj_get(str(pin))
            stack.callback(os.close, descriptor)
            yield pin.name, descriptor


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # bcc raises nothing more precise
        raise RefusedError(f"the kernel did not take the program: {error}", "dmesg | tail") from error


@contextmanager
def _kernel_source(sources: Path) -> Iterator[None]:
    before = os.environ.get(_KERNEL_SOURCE)
    os.environ[_KERNEL_SOURCE] = str(sources)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KERNEL_SOURCE]
        else:
            os.environ[_KERNEL_SOURCE] = before
