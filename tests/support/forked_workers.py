"""Workers that a command launches, as forks of a process that has nothing but what it has imported."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import socket
import subprocess
import time
from types import SimpleNamespace

from optuna.storages import RDBStorage
from PIL import Image

import hpo.supervision.launcher
from storage.optuna_internals import newest_tables
from tests.support.fork_server import execute

FORKS = multiprocessing.get_context("fork")
PR_SET_CHILD_SUBREAPER = 36
LONGEST = 2**20  # bytes of a request
newest_tables()  # which each command would ask again
RDBStorage("sqlite://").engine.dispose()  # what the first query of a process sets up
Image.init()  # as does whatever saves a picture


class ForkedWorker:
    """A worker process as subprocess.Popen gives it, as far as the launcher and the supervisor use it."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        """Its exit code, or less the number of the signal that ended it; None while it runs."""
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, number):
        """Send it a signal."""
        os.kill(self.pid, number)


def fork_workers():
    """Have the workers that this process launches forked by a child that is forked now, before anything is opened."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _serve(theirs)
        os._exit(0)
    theirs.close()
    # The workers are forked by a process that ends at once: this one then is their parent.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def launch(command, *, env, stdout, **_):
        request = json.dumps({"words": command[1:], "environment": env}).encode()
        socket.send_fds(ours, [request], [stdout.fileno()])
        return ForkedWorker(int(ours.recv(LONGEST)))

    hpo.supervision.launcher.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": launch})


def _serve(requests):
    """Fork a worker for each request, and answer with its process id, until nobody can ask any more."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST, 1)
        if not request:
            return
        read, write = os.pipe()
        if (between := os.fork()) == 0:
            process = FORKS.Process(
                target=_work, args=(os.getpid(), requests, *descriptors), kwargs=json.loads(request)
            )
            process.start()
            os.write(write, str(process.pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        requests.send(os.read(read, 100))
        for descriptor in (read, write, *descriptors):
            os.close(descriptor)


def _work(between, requests, output, words, environment):
    requests.close()
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    while os.getppid() == between:
        time.sleep(0.001)
    execute(words)
