"""Programs that look at what a process is to its script: signals, children, threads, streams, files, errors.

Each runs with and without a beacon, and has to print the same and end the same. `begin` starts the beacon,
or gives a stand-in that does nothing; what a program prints is what it would miss.
"""

from __future__ import annotations

BEGIN = """
import contextlib, os, signal, sys, threading, time

FOLDER = sys.argv[2]

class Nobody:
    def __getattr__(self, name):
        return lambda *args, **keywords: contextlib.nullcontext()
    def batches(self, loader, **keywords):
        return loader

def begin(**settings):
    if sys.argv[1] == "without":
        return Nobody()
    import trainbeacon
    settings = {"serve": "off", "directory": FOLDER + "/boxes", **settings}
    beacon = trainbeacon.start(run="untouched", **settings)
    until(lambda: beacon._loop.is_alive)
    return beacon

def until(condition):
    while not condition():
        time.sleep(0.01)
"""

_SIGNALS = """
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT):
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    os.kill(os.getpid(), number)
    assert number in signal.sigpending(), number
    print(signal.sigtimedwait({number}, 30).si_signo)
"""

PROGRAMS: dict[str, str] = {
    "signals that are blocked and waited for": f"""
beacon = begin()
with beacon.checkpoint(FOLDER + "/one"):  # the thread of the files too
    open(FOLDER + "/one", "w").close()
time.sleep(0.2)
{_SIGNALS}
""",
    "mask of the script": """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
begin()
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
""",
    "handlers of signals": """
got = []
signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
begin()
os.kill(os.getpid(), signal.SIGUSR1)
until(lambda: got)
print(got, [str(signal.getsignal(number)) for number in range(1, 65) if number not in (10, 32, 33)])
""",
    "random numbers": """
import random
random.seed(7)
beacon = begin()
for _ in range(3):
    with beacon.step():
        beacon.log(loss=1.0)
time.sleep(1.5)
beacon.finish()
print(random.random())
with contextlib.suppress(ImportError):
    import numpy
    numpy.random.seed(7)
    begin().finish()
    print(numpy.random.rand())
""",
    "state of the process": """
import asyncio, decimal, gc, locale, logging, multiprocessing, resource, socket, tempfile, tracemalloc
import warnings

def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

def state():
    return {
        "folder": os.getcwd(), "umask": umask(), "environ": dict(os.environ), "path": sys.path,
        "locale": locale.setlocale(locale.LC_ALL), "warnings": list(map(str, warnings.filters)),
        "root": (logging.root.level, logging.root.handlers, logging.root.filters, logging.lastResort),
        "logging": (logging.raiseExceptions, logging.root.manager.disable, logging.getLoggerClass()),
        "trace": (sys.gettrace(), sys.getprofile(), threading.excepthook, sys.unraisablehook),
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.displayhook),
        "settings": (sys.getswitchinterval(), sys.getrecursionlimit(), gc.get_threshold(), gc.isenabled()),
        "limits": [resource.getrlimit(number) for number in range(10)],
        "affinity": os.sched_getaffinity(0), "nice": os.nice(0),
        "wakeup": signal.set_wakeup_fd(-1), "timers": signal.getitimer(signal.ITIMER_REAL),
        "start": multiprocessing.get_start_method(allow_none=True), "temporary": tempfile.tempdir,
        "network": socket.getdefaulttimeout(), "decimal": str(decimal.getcontext()),
        "memory": tracemalloc.is_tracing(), "loop": asyncio.get_event_loop_policy(),
        "children": multiprocessing.active_children(), "main": threading.current_thread().name,
    }
import faulthandler
before = {**state(), "faulthandler": faulthandler.is_enabled()}
beacon = begin()
for number in beacon.batches([1, 2, 3]):
    beacon.log(loss=1.0)
during = {**state(), "faulthandler": faulthandler.is_enabled()}
beacon.finish()
after = {**state(), "faulthandler": faulthandler.is_enabled()}
print([name for name in before if not before[name] == during[name] == after[name]])
print(sys.excepthook is sys.__excepthook__)
""",
    "files after chdir": """
os.chdir(FOLDER)
os.mkdir("elsewhere")
beacon = begin(directory="boxes", state_file="state.json", evidence_dir="evidence")
os.chdir("elsewhere")
with beacon.checkpoint("one"):
    open("one", "w").close()
os.chdir("/")
for _ in range(3):
    with beacon.step():
        pass
beacon.finish()
print([name for name in os.listdir(FOLDER + "/elsewhere") if not name.startswith(".")])
""",
    "closed streams": """
for number in (0, 1, 2):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
beacon = begin()
print("to nobody")
names = [os.readlink(f"/proc/self/fd/{n}") for n in range(3) if os.path.exists(f"/proc/self/fd/{n}")]
ours = [name for name in names if name != "/dev/null"]
beacon.finish()
with open(FOLDER + "/said", "w") as file:
    print(ours, file=file)
""",
    "no stream objects": """
sys.stdout = sys.stderr = None
beacon = begin()
with beacon.step():
    pass
beacon.log(loss="no number at all")  # counted, and logged
beacon.finish()
sys.exit(3)
""",
    "uncaught exception": """
def own(kind, error, trace):
    print("own hook", kind.__name__)
sys.excepthook = own
begin()
import atexit
atexit.register(print, "at exit")
raise KeyError("of the script")
""",
    "uncaught exception, plain": """
begin()
raise KeyError("of the script")
""",
    "exit status": """
begin()
sys.exit(7)
""",
    "killed by a signal": """
begin()
signal.raise_signal(signal.SIGTERM)
""",
    "order at the exit": """
import atexit
atexit.register(print, "first")
beacon = begin()
atexit.register(print, "second")
with beacon.step():
    pass
""",
    "faulthandler's timer, armed before": """
import faulthandler
own = open(FOLDER + "/own", "w")
faulthandler.dump_traceback_later(1.0, file=own)
begin(evidence_seconds=30)
until(lambda: os.path.getsize(FOLDER + "/own"))
print("own timer went off", own.close())
""",
    "faulthandler's timer, armed at any moment": """
import faulthandler
own = open(FOLDER + "/own", "w")
beacon = begin(evidence_seconds=8)
for pause in (0.0, 0.3, 0.7, 1.1, 1.3):
    time.sleep(pause)
    faulthandler.dump_traceback_later(2.5, file=own)
until(lambda: os.path.getsize(FOLDER + "/own"))
print("own timer went off")
faulthandler.dump_traceback_later(0.5, exit=True, file=own)
time.sleep(30)
""",
    "a fault, with faulthandler of the script's": """
import faulthandler
faulthandler.enable(file=open(FOLDER + "/own", "w"))
begin()
signal.raise_signal(signal.SIGSEGV)
""",
    "no thread to be had": """
real = threading.Thread.start
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
until = lambda condition: None
beacon = begin()
for _ in range(2):
    with beacon.step():
        beacon.log(loss=1.0)
with beacon.checkpoint(FOLDER + "/one"):
    open(FOLDER + "/one", "w").close()
beacon.finish()
print("trained")
""",
    "no descriptor to be had": """
import resource
if sys.argv[1] == "with":
    import trainbeacon, trainbeacon.recorder.api.beacon
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
with contextlib.suppress(OSError):
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
beacon = begin()
for _ in range(2):
    with beacon.step():
        beacon.log(loss=1.0)
beacon.finish()
print("trained")
""",
    "descriptors of a child": """
import subprocess
begin()
code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
print(subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True).stdout)
""",
    "children": """
got = []
signal.signal(signal.SIGCHLD, lambda *_: got.append(1))
begin()
if not os.fork():
    os._exit(5)
print(os.wait()[1], len(got))
try:
    os.wait()
except ChildProcessError:
    print("no other child")
""",
    "children, with an exporter": """
begin(serve="process", host="127.0.0.1", port=0, linger_seconds=1, gpu=False)
served = FOLDER + "/boxes/exporter.lock"
until(lambda: sys.argv[1] == "without" or os.path.exists(served) and os.path.getsize(served))
if not os.fork():
    os._exit(5)
print(os.wait()[1])
try:
    os.wait()
except ChildProcessError:
    print("no other child")
with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
    print(file.read())
""",
    "an isolated interpreter that finds its modules by hand": """
import subprocess
paths = [path for path in sys.path if path]
code = (
    "import os, sys, time\n"
    "sys.path[:0] = " + repr(paths) + "\n"
    "import trainbeacon\n"
    "folder = " + repr(FOLDER + "/boxes") + "\n"
    "beacon = trainbeacon.start(run='r', directory=folder, host='127.0.0.1', port=0, linger_seconds=1)\n"
    "lock = folder + '/exporter.lock'\n"
    "while not os.path.exists(lock) or not os.path.getsize(lock): time.sleep(0.01)\n"
) if sys.argv[1] == "with" else "pass"
for flags in (["-I"], ["-S", "-E"]):
    print(subprocess.run([sys.executable, *flags, "-c", code], timeout=60).returncode)
""",
    "a forked child that trains": """
beacon = begin()
pid = os.fork()
if not pid:
    for number in beacon.batches([1, 2]):
        beacon.log(loss=1.0)
    with beacon.step():
        pass
    beacon.finish()
    sys.exit(4)
print(os.waitpid(pid, 0)[1])
beacon.finish()
""",
    "an exception of a handler, in a call of ours": """
class Preempted(Exception):
    pass

class Wrong(ValueError):
    pass

def handler(kind):
    def handle(number, frame):
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # as those do that fire once
        raise kind("now")
    return handle

class Callable:
    def __call__(self, *args):
        raise TimeoutError

class Number:
    def item(self):
        signal.raise_signal(signal.SIGUSR1)
        return 1.0
    def __float__(self):
        return self.item()

def size(batch):
    return 1 if signal.raise_signal(signal.SIGUSR1) is None else 0

def iterate(beacon):
    for batch in beacon.batches([1], samples=size):
        signal.raise_signal(signal.SIGUSR1)

def log(beacon, **values):
    beacon.log(**values)
    next(iter(values.values())).item()

for handle in (handler(Preempted), handler(Wrong), handler(OSError), Callable()):
    for name, work in {
        "log": lambda beacon: log(beacon, loss=Number()),
        "log another": lambda beacon: log(beacon, perplexity=Number()),
        "accuracy": lambda beacon: log(beacon, accuracy=Number()),
        "samples": iterate,
    }.items():
        signal.signal(signal.SIGUSR1, handle)
        beacon = begin()
        try:
            work(beacon)
            print(name, "swallowed")
        except Exception as error:
            print(name, type(error).__name__)
        beacon.finish()
""",
    "a timer that interrupts at any moment": """
class Alarm(Exception):
    pass

raised = caught = 0
def handler(number, frame):
    global raised
    raised += 1
    raise Alarm

beacon = begin()
signal.signal(signal.SIGALRM, handler)
end = time.monotonic() + 3
while time.monotonic() < end and raised < 3000:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        for number in beacon.batches(range(1000)):
            beacon.log(loss=1.0, other=number)
            with beacon.phase("forward"):
                pass
            if raised > caught:
                break
        signal.pause() if raised == caught else None
    except Alarm:
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(raised > 10, raised - caught)
beacon.finish()
""",
    "interrupted by hand at any moment": """
def interrupt(number, frame):
    raise KeyboardInterrupt

beacon = begin()
signal.signal(signal.SIGALRM, interrupt)
end, caught = time.monotonic() + 2, 0
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while True:
            with beacon.step():
                with beacon.phase("forward"):
                    beacon.log(loss=1.0)
    except KeyboardInterrupt:
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
before = beacon.timeline.step if sys.argv[1] == "with" else 0
for _ in range(5):
    with beacon.step():
        beacon.log(loss=1.0)
print(caught > 10, beacon.timeline.step - before if sys.argv[1] == "with" else 5)
beacon.finish()
""",
}
