"""What generation gives without the payload messages, in a Python of its own: a process knows each message once."""

import os
import subprocess
import sys
from pathlib import Path

from test_rule import event, payload

FOLDER = Path(__file__).parent.parent
BUF = os.environ.get("BUF", str(FOLDER / "../../.bin/buf"))

READS = """
import sys
from spotbridge.v1.event_pb2 import Event
from spotbridge.v1 import subscription_pb2_grpc, history_pb2_grpc, group_pb2_grpc
typed = sys.stdin.buffer.read()
event = Event.FromString(typed)
print(event.id, event.operation_summary.tickets_issued, hasattr(event, "pnr_v3"))
print(len(event.SerializeToString()) == len(typed))  # unknown fields are kept
print([name for name in sys.modules if name.startswith("spotnana")])
"""


def test_events_are_read_without_the_payload_messages(tmp_path: Path) -> None:
    command = [BUF, "generate", "--template", "buf.gen.no-payloads.yaml", "--output", str(tmp_path)]
    subprocess.run(command, cwd=FOLDER, check=True)
    assert not (tmp_path / "spotnana").exists()
    (tmp_path / "spotbridge" / "__init__.py").touch()  # else the installed library's package wins over this folder
    typed = event("s.1", 2, issued=["t1"], payload=payload(12.5)).SerializeToString()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", READS], input=typed, capture_output=True, env=environment, check=True)
    assert done.stdout.decode().splitlines() == ["s.1 ['t1'] False", "True", "[]"]
