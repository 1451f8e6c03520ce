"""The loop: when to look, what to do about it one thing after another, and a sign of life for the service manager.

It waits for news of the kernel, for signals and for the one worker that may be running. News that come in a storm are
answered by few looks; what fails or is undone again and again is tried ever more seldom.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from contextlib import ExitStack

from qosctl.bpf.errors import NoPermissionError, NotAttachedError, QosctlError
from qosctl.dtls.backoff import KeyedBackoff
from qosctl.dtls.events import Say, Severity
from qosctl.supervisor.devices import interfaces
from qosctl.supervisor.devices.attach import detach
from qosctl.supervisor.supervise import repair
from qosctl.supervisor.supervise.attach_process import Answer, AttachProcess
from qosctl.supervisor.supervise.config import Config
from qosctl.supervisor.supervise.notify import Notifier
from qosctl.supervisor.supervise.observe import observe
from qosctl.supervisor.supervise.reconcile import (
    Action,
    ApplySettings,
    Attach,
    Detach,
    DropPins,
    Follow,
    Memory,
    Observed,
    Reattach,
    plan,
)
from qosctl.supervisor.supervise.signals import Signals
from qosctl.supervisor.supervise.watch import KernelNews

LOOK_EVERY_S = 2.0
"""What has no news (TCX links, counters' pins) is found by then."""
_REAP_EVERY_S = 30.0
_SETTLE_S, _SOON_S, _STORM_S = 0.02, 0.25, 1.0
_STABLE_S = 1.0
"""How long a device that comes and goes has to stay before it is tried again."""
_CHANGES = {"attached": "attached", "replaced": "program replaced", "already": "attached already, up to date"}


class Supervisor:
    """Keeps the kernel as `load()` says. `say` takes lines for people."""

    def __init__(self, load: Callable[[], Config], say: Say, notifier: Notifier) -> None:
        self.config = load()
        self._load = load
        self._say = say
        self._notifier = notifier
        self._memory = Memory()
        self._attaching: AttachProcess | None = None
        self._repairs = KeyedBackoff(free=3, first_s=0.5, longest_s=4.0, calm_s=30.0)
        self._refusals = KeyedBackoff(free=0, first_s=2.0, longest_s=300.0, calm_s=1200.0)
        self._complaints: dict[str, str] = {}
        self._ready = False
        self._look_at = self._looked = self._reap_at = self._alive_at = 0.0
        self._alive_every_s = (notifier.watchdog_s or 30.0) / 3

    def run(self, on_reload: Callable[[Config], None] = lambda _: None) -> None:
        """Work until SIGINT or SIGTERM; what is attached stays attached. `on_reload` hears of a new configuration."""
        with ExitStack() as stack:
            signals = stack.enter_context(Signals())
            news = stack.enter_context(KernelNews())
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(signals, selectors.EVENT_READ)
            self._selector.register(news, selectors.EVENT_READ)
            stack.callback(self._end_attaching)
            self._look_at = self._reap_at = time.monotonic()
            while True:
                ready = {key.fileobj for key, _ in self._selector.select(self._wait_s())}
                now = time.monotonic()
                if signals in ready:
                    reload, stop = signals.take()
                    if stop:
                        self._notifier.stopping()
                        return
                    if reload:
                        self._reload(on_reload)
                if news in ready:
                    self._hear(now, overrun=news.drain())
                self._work(now)

    def _wait_s(self) -> float:
        due = [self._look_at, self._reap_at, self._alive_at]
        if self._attaching is not None:
            due.append(self._attaching.deadline)
        return max(0.0, min(due) - time.monotonic())

    def _hear(self, now: float, *, overrun: bool) -> None:
        """Look soon: at once after a calm, so that a repair is quick, and seldom in a storm."""
        pause = _STORM_S if overrun else _SOON_S
        self._look_at = min(self._look_at, max(now + _SETTLE_S, self._looked + pause))

    def _work(self, now: float) -> None:
        if self._attaching is not None:
            self._listen_to(self._attaching, now)
        if now >= self._look_at:
            self._look(now)
        if now >= self._reap_at:
            self._reap_at = now + _REAP_EVERY_S
            self._reap()
        if now >= self._alive_at:
            self._alive_at = now + self._alive_every_s
            self._notifier.alive(self._summary())

    def _look(self, now: float) -> None:
        self._looked, self._look_at = now, now + LOOK_EVERY_S
        try:
            observed = observe(self.config.wants)
        except NoPermissionError:
            raise
        except QosctlError as error:
            self._complain("look", str(error))
            self._look_at = now + _STORM_S
            return
        self._complain("look", "")
        self._memory = self._memory.after_look(observed, now).with_followed(self.config, observed)
        requests: list[Attach | Follow] = []
        for action in plan(self.config, observed, self._memory, now):
            if isinstance(action, Attach | Follow):
                requests.append(action)
            elif self._may(action, now):
                self._act(action, observed)
        if self._attaching is None:
            self._start([request for request in requests if self._may(request, now)], now)
        if not self._ready and self._attaching is None:
            self._ready = True
            self._notifier.ready(self._summary())

    def _may(self, action: Action, now: float) -> bool:
        """Say whether it is time to do it, and note that it is done; otherwise look again when it is time."""
        if not isinstance(action, Attach | Follow | Reattach):
            return True
        what = _task(action)
        due = max(self._repairs.due(what, now), self._refusals.due(what, now))
        if isinstance(action, Attach) and self._repairs.waits(what):  # a compilation is wasted on what goes at once
            due = max(due, self._memory.there_since.get(action.index, now) + _STABLE_S)
        if due > now:
            self._look_at = min(self._look_at, due)
            return False
        self._repairs.tried(what, now)
        return True

    def _act(self, action: ApplySettings | Reattach | Detach | DropPins, observed: Observed) -> None:
        part = "settings" if isinstance(action, ApplySettings) else str(observed.names.get(action.index, action.index))
        try:
            self._do(action, observed)
        except NoPermissionError:
            raise
        except NotAttachedError:
            self._look_at = self._looked  # it went meanwhile: look again
        except QosctlError as error:
            if isinstance(action, Reattach):
                self._memory = self._memory.after_failed_reattach(action.index)
                self._look_at = self._looked
            self._complain(part, str(error))

    def _do(self, action: ApplySettings | Reattach | Detach | DropPins, observed: Observed) -> None:
        match action:
            case ApplySettings():
                if repair.apply_settings(self.config.policy, self.config.passtos):
                    self._say(Severity.NOTICE, "switch and policy set as configured")
                if observed.maps is not None:
                    self._memory = self._memory.after_settings(observed.maps, self.config)
            case Reattach(index, name, hook):
                if repair.reattach(index, hook):
                    what = f"{name}: our program was removed or replaced by someone; put back ({hook.value})"
                    self._say(Severity.WARNING, what)
            case Detach(_, name):
                detach([name])
                self._say(Severity.NOTICE, f"{name}: not in the configuration any more, detached")
            case DropPins(index):
                repair.drop_pins(index)

    def _start(self, requests: list[Attach | Follow], now: float) -> None:
        if not requests:
            return
        try:
            self._attaching = AttachProcess(requests, now)
        except OSError as error:  # no memory or no process to be had: what is attached marks on, and we try again
            self._complain("attach", str(error))
            return
        self._complain("attach", "")
        self._selector.register(self._attaching, selectors.EVENT_READ)

    def _listen_to(self, attaching: AttachProcess, now: float) -> None:
        if now >= attaching.deadline:
            attaching.end()
        answers, ended = attaching.read()
        for answer in answers:
            self._take(answer, now)
        if ended:
            self._end_attaching()
            self._look_at = now

    def _take(self, answer: Answer, now: float) -> None:
        request = answer.request
        if isinstance(request, Follow):
            self._take_followed(request, answer, now)
            return
        what = _task(request)
        if answer.hook is None and interfaces.name_of(request.index) != request.name:
            return  # it went, or has another name now: nobody refused anything
        if answer.hook is None:
            if request.hook is self.config.hook:  # or a reload has overtaken it
                self._refusals.tried(what, now)
            self._complain(request.name, answer.error)
            return
        self._refusals.forget(what)
        self._complain(request.name, "")
        self._memory = self._memory.after_attach(request, answer.hook)
        self._say(Severity.NOTICE, f"{request.name}: {_CHANGES[answer.change]} ({answer.hook.value})")

    def _take_followed(self, request: Follow, answer: Answer, now: float) -> None:
        self._complain(request.name, answer.error)
        if answer.error:
            self._refusals.tried(_task(request), now)
            return
        self._refusals.forget(_task(request))
        what = f"following {', '.join(request.wanted) or 'nothing'}, as configured"
        self._say(Severity.NOTICE, what if self.config.follow is not None else "what is followed is up to date")

    def _end_attaching(self) -> None:
        if self._attaching is not None:
            self._selector.unregister(self._attaching)
            self._attaching.close()
            self._attaching = None

    def _reap(self) -> None:
        try:
            reaped = repair.reap()
        except QosctlError as error:
            self._complain("flows", str(error))
            return
        self._complain("flows", "")
        if reaped:
            self._say(Severity.NOTICE, f"{reaped} flow{'s' if reaped > 1 else ''} of dead clients removed")

    def _reload(self, on_reload: Callable[[Config], None]) -> None:
        self._notifier.reloading()
        try:
            self.config = self._load()
        except QosctlError as error:
            self._say(Severity.ERROR, f"reload refused, the old configuration stays: {error}")
        else:
            self._say(Severity.NOTICE, "configuration read again")
            on_reload(self.config)
            self._memory = self._memory.after_reload()
            self._repairs.forget_all()
            self._refusals.forget_all()
        self._ready = False
        self._look_at = self._reap_at = 0.0

    def _complain(self, part: str, message: str) -> None:
        """Say what is wrong with a part, once as long as it stays the same; "" when it is fine again."""
        before = self._complaints.pop(part, "")
        if message:
            self._complaints[part] = message
        if message and message != before:
            self._say(Severity.WARNING, message if message.startswith(f"{part}:") else f"{part}: {message}")

    def _summary(self) -> str:
        names = [known.link.name for known in self._memory.current.values()]
        wrong = f"; {len(self._complaints)} refused" if self._complaints else ""
        return f"attached to {', '.join(sorted(names)) or 'nothing'}{wrong}"


def _task(action: Attach | Follow | Reattach) -> tuple[str, str]:
    """Return what is the same when it is tried again: what is done, and to what."""
    return type(action).__name__, action.name
