"""A conformance adapter in Python: the kit's target ``inline``, spoken to line by line."""

import json
import sys
from typing import Any

from msgspec.structs import asdict

from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.target import Unsupported

TARGET = InlineTarget()


def say(answer: dict[str, Any]) -> None:
    """One line, at once."""
    print(json.dumps(answer), flush=True)


def integers(value: Any) -> Any:
    """Hex strings back to integers, however deep."""
    if isinstance(value, dict):
        return {name: integers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [integers(each) for each in value]
    return int(value, 16) if str(value).startswith(("0x", "-0x")) else value


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked."""
    if "hello" in request:
        return {"hello": asdict(TARGET.hello())}
    if "reset" in request:
        TARGET.reset(integers(request["reset"]))
        return {}
    fields = integers(request)
    reply = TARGET.op(fields.pop("op"), fields.pop("vcpu"), fields, on_nmi)
    result = {} if reply.value is None else {"value": hex(reply.value)}
    return {**result, "fault": reply.fault, "refused": reply.refused}


def serve() -> None:
    """Until the kit ends, or the handler of an NMI does."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "iret" in request:
            return
        try:
            say(answer(request))
        except Unsupported as error:
            say({"unsupported": str(error)})


def on_nmi(vcpu: int) -> None:
    """Have the handler's operations sent, and serve them."""
    say({"nmi": vcpu})
    serve()


serve()
