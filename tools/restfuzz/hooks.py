"""What schemathesis cannot know of this bridge: that its streams need not end, and what they hold."""

import json
import pathlib
import zlib

import jsonschema_rs
import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

SUBSCRIBE = "/v1/events:subscribe"
LINES, EVENTS = "application/x-ndjson", "text/event-stream"

# run.sh runs schemathesis in the folder of the dictionaries.
CURSORS = [json.loads(line) for line in pathlib.Path("cursors.dict").read_text().splitlines()]


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict) -> None:
    """Lets streams end, and asks for both of their forms.

    Streams of lines always stop at the head. Of the server-sent events one in eight goes on: schemathesis reads 20 events,
    or until its timeout. What is chosen depends on the request alone, so that a seed repeats it.
    """
    if case.operation.path != SUBSCRIBE or case.method.upper() != "GET":
        return
    query = case.query
    number = zlib.crc32(json.dumps(query, sort_keys=True, default=str).encode())
    case.headers["Accept"] = (LINES, EVENTS)[number % 2]
    if number % 16 == 1:
        kwargs["timeout"] = 2
        return
    if str(query.get("stop_at_head", "false")).lower() in ("false", "0", "f", ""):
        query["stop_at_head"] = "true"
    if number % 4 == 3:  # a browser that comes back
        case.headers["Last-Event-ID"] = CURSORS[number // 4 % len(CURSORS)]


def messages(response: Response) -> list[tuple[str, str]]:
    """Returns what a stream held: "result" or "error" with its JSON text."""
    text = response.text
    if response.headers["content-type"][0] == LINES:
        if text and not text.endswith("\n"):
            raise AssertionError("the last line is not complete")
        out = []
        for line in text.splitlines():
            (key,) = json.loads(line)
            out.append((key, json.dumps(json.loads(line)[key])))
        return out
    out = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if set(fields) == {"retry"}:
            continue
        if not set(fields) <= {"event", "id", "data", "retry"}:
            raise AssertionError(f"an event with the fields {sorted(fields)}")
        out.append(("error" if fields["event"] == "error" else "result", fields["data"]))
        if fields["event"] != "error" and (fields.get("id") != json.loads(fields["data"]).get("cursor") or fields["event"] == "message"):
            raise AssertionError(f"an event that is not named and numbered after its message: {block}")
    return out


@schemathesis.check
def stream_conformance(ctx: CheckContext, response: Response, case: Case) -> None:
    """Each message of a stream has the schema of its kind, the first one confirms, and only the last one is an error."""
    if case.operation.path != SUBSCRIBE or response.status_code != 200:
        return
    raw = case.operation.schema.raw_schema
    line = raw["paths"][SUBSCRIBE]["get"]["responses"]["200"]["content"][LINES]["schema"]["properties"]
    found = messages(response)
    for key, text in found:
        schema = {**line[key], "components": raw["components"]}
        if (error := next(jsonschema_rs.iter_errors(schema, json.loads(text)), None)) is not None:
            raise AssertionError(f"{key} does not have its schema: {error}")
    if not found or "confirmation" not in json.loads(found[0][1]):
        raise AssertionError("the first message is no confirmation")
    if any(key == "error" for key, _ in found[:-1]):
        raise AssertionError("something follows an error")


@schemathesis.check
class every_operation_was_reached:
    """Fails when an operation never succeeded: then the run has shown nothing of it."""

    def __init__(self) -> None:
        self.reached: dict[str, bool] = {}

    def after_response(self, ctx: CheckContext, response: Response, case: Case) -> None:
        key = f"{case.operation.method.upper()} {case.operation.path}"
        self.reached[key] = self.reached.get(key, False) or response.status_code in (200, 204)

    def after_run(self, ctx: CheckContext) -> None:
        if missing := sorted(key for key, ok in self.reached.items() if not ok):
            raise AssertionError("never answered with 200: " + ", ".join(missing))
