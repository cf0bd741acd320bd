"""Pretend hosts are hosts, and leave nothing; the cluster is rehearsed on them."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.helpers import ROOT
from tests.rehearsal.hosts import PROGRAMS, missing, room
from tests.rehearsal.rehearse import read_hosts, rehearse, traces

pytestmark = pytest.mark.cluster

VISIT = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.rehearsal.hosts import furnish, type_on
from tests.rehearsal.rehearse import LAPTOP, read_hosts
hosts = read_hosts()
furnish(LAPTOP, hosts, "GREETING=hello")
def type(command):
    print(type_on(LAPTOP, command, timeout=60).stdout.strip())
def visit(host, command):
    type(f"ssh -q -o StrictHostKeyChecking=no {{host.user}}@{{host.address}} '{{command}}'")
for host in hosts:
    visit(host, 'echo $(hostname) $USER $GREETING $(ls -A ~/longtail); touch /shared/$(hostname)')
visit(hosts[0], 'echo $(ls /shared)')
visit(hosts[0], "pgrep -c sshd")
type("touch written")
"""
OPEN = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import time
from tests.rehearsal.hosts import room
with room(["sleep", "600"]):
    time.sleep(600)
"""


def test_hosts_are_reached_by_ssh_share_a_folder_see_themselves_alone_and_leave_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before, hosts = traces(), read_hosts()
    with room([sys.executable, "-c", VISIT]) as process:
        assert process.wait(60) == 0
    *greetings, shared, daemons, refusal = capfd.readouterr().out.strip().split("\n")
    # nothing of the project is there before it is sent, but for the environment
    assert greetings == [f"{host.name} {host.user} hello .venv" for host in hosts]
    assert shared == " ".join(sorted(host.name for host in hosts))
    assert daemons == "2"  # its own, and the one of this visit
    assert "Read-only" in refusal
    assert traces() == before


def test_a_missing_program_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROGRAMS, "no-such-program", "its-package")
    assert missing() == "pretend hosts need Debian packages: apt-get install its-package"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killing_who_opened_a_room_ends_all_in_it(number: signal.Signals) -> None:
    opener = subprocess.Popen([sys.executable, "-c", OPEN])
    own = psutil.Process(opener.pid)
    end = time.monotonic() + 30
    while not any(child.name() == "sleep" for child in own.children(recursive=True)):
        assert time.monotonic() < end
        time.sleep(0.05)
    family = own.children(recursive=True)
    opener.send_signal(number)
    opener.wait(10)
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.rehearsal
@pytest.mark.timeout(1800)
def test_the_cluster_works_as_documented() -> None:
    rehearse()
