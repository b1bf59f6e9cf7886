"""A main thread that never comes back from C."""

STUCK = """
import ctypes, os, signal, sys, threading
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
def stick(number):
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    lock(mutex), lock(mutex)  # no signal interrupts that
"""
"""Source of `stick`, which signals its own process while nothing in Python can run."""
