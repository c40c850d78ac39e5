"""Gives a bridge something to be asked about, and writes the dictionaries that schemathesis.toml names.

    prepare.py BASE_URL FOLDER
"""

import json
import pathlib
import sys
import time

import requests


def main(base: str, folder: pathlib.Path) -> None:
    def call(method: str, path: str, body: dict | None = None) -> dict:
        response = requests.request(method, base + path, json=body, timeout=30)
        response.raise_for_status()
        return response.json()

    def write(name: str, values: list[str]) -> None:
        if not values:
            raise SystemExit(f"the bridge has nothing for {name}")
        lines = [json.dumps(value) for value in dict.fromkeys(values)]
        (folder / f"{name}.dict").write_text("\n".join(lines) + "\n")

    def outcomes() -> dict[str, str]:
        return {d["outcome"]: d["id"] for d in call("GET", "/v1/deliveries?page_size=1000")["deliveries"]}

    # Rows are written behind the answers of the door.
    wanted = {f"DELIVERY_OUTCOME_{name}" for name in ("ACCEPTED", "DUPLICATE", "QUARANTINED", "REFUSED")}
    deadline = time.monotonic() + 30
    while not wanted <= outcomes().keys():
        if time.monotonic() > deadline:
            raise SystemExit(f"deliveries have only these outcomes: {', '.join(outcomes())}")
        time.sleep(0.05)

    groups, doomed = ["fuzz-1", "fuzz-2"], ["doomed-1", "doomed-2"]
    for group in groups + doomed:
        call("POST", "/v1/groups", {"group": group, "start": "START_EARLIEST"})
    write("groups", groups + ["no-such-group"])
    write("doomed", doomed + ["doomed-3", "doomed-4"])

    held = [d["deliveryId"] for d in call("POST", "/v1/groups/fuzz-1:pull", {"maxEvents": 12})["deliveries"]]
    settled, parked, left = held[:2], held[2:8], held[8:]
    nack = {"deliveryIds": parked, "action": "NACK_ACTION_PARK", "reason": "for the fuzzer"}
    call("POST", "/v1/groups/fuzz-1:acknowledge", {"ack": {"deliveryIds": settled, "confirm": True}, "nacks": [nack]})
    write("delivery_ids", left + settled[:1])

    events = call("GET", "/v1/events?page_size=20&view=ENVELOPE")["events"]
    write("events", [e["id"] for e in events])
    write("deliveries", list(outcomes().values()))

    stream = requests.get(base + "/v1/events:subscribe?start=EARLIEST&stop_at_head=true&view=ENVELOPE", timeout=30)
    cursors = [json.loads(line)["result"]["cursor"] for line in stream.text.splitlines()]
    write("cursors", cursors[:3] + cursors[-1:])

    lists = ["/v1/events", "/v1/deliveries", "/v1/groups", "/v1/groups/fuzz-1/deadLetters", "/v1/schemaDrift"]
    pages = [call("GET", path + "?page_size=1") for path in lists]
    write("page_tokens", [page["nextPageToken"] for page in pages if page.get("nextPageToken")])


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
