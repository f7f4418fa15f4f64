"""Clock and power of GPU 0, read while something runs."""
import threading
import time

try:
    import pynvml

    pynvml.nvmlInit()
    _HANDLE = pynvml.nvmlDeviceGetHandleByIndex(0)
except Exception:  # no NVML: the table goes without
    _HANDLE = None


def _read():
    return (pynvml.nvmlDeviceGetClockInfo(_HANDLE, pynvml.NVML_CLOCK_SM), pynvml.nvmlDeviceGetPowerUsage(_HANDLE) / 1000.0)


def now():
    if _HANDLE is None:
        return "no NVML"
    clock, power = _read()
    return f"now {clock} MHz, {power:.0f} W"


class Sampler:
    """with sampler: … collects samples in a thread; text() gives the median clock and the highest power seen."""

    def __init__(self):
        self.samples = []

    def __enter__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect)
        if _HANDLE is not None:
            self._thread.start()
        return self

    def _collect(self):
        while not self._stop.is_set():
            self.samples.append(_read())
            time.sleep(0.005)

    def __exit__(self, *_):
        self._stop.set()
        if _HANDLE is not None:
            self._thread.join()

    def text(self):
        if not self.samples:
            return "-"
        return f"{sorted(s[0] for s in self.samples)[len(self.samples) // 2]} MHz {max(s[1] for s in self.samples):.0f} W"
