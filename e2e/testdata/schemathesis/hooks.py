"""What the fuzzer must leave alone, and what it has to take for an answer.

Nothing is left out: a request that would end the test's own desktop, user or key, or wait for
minutes, is made with another target or a shorter time instead.
"""

import os
import re

import schemathesis

DESKTOP = os.environ["BUREAU_FUZZ_DESKTOP"]  # the real one
VICTIM = os.environ["BUREAU_FUZZ_VICTIM"]  # one that is off, and may be ended
PROTECTED = set(os.environ["BUREAU_FUZZ_PROTECTED"].split(","))  # keys that others use

# What would take the real desktop away from the requests that follow: its end and its halt, and a
# lease, which closes its input for as long as it says.
FOR_THE_VICTIM = {
    ("DELETE", "/v1/desktops/{id}"),
    ("POST", "/v1/desktops/{id}/start"),
    ("POST", "/v1/desktops/{id}/stop"),
    ("POST", "/v1/desktops/{id}/restart"),
    ("POST", "/v1/desktops/{id}/lease"),
}

# Times that a request may ask for, in milliseconds. Waiting longer finds nothing.
WAITS = {"settleMs", "durationMs", "delayMs", "holdMs", "ms", "timeoutMs"}
LONGEST = 200


def shorten(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in WAITS and type(inner) is int and inner > LONGEST:
                value[name] = LONGEST
            elif name == "delayMs" and type(inner) is int and len(str(value.get("text", ""))) > 20:
                value[name] = 0
            else:
                shorten(inner)
    elif isinstance(value, list):
        for inner in value:
            shorten(inner)


def leave_out_null(value):
    """A member that is null counts as one that is not there, which a schema has no words for."""
    if isinstance(value, dict):
        for name in [name for name, inner in value.items() if inner is None]:
            del value[name]
        for inner in value.values():
            leave_out_null(inner)


@schemathesis.hook
def before_call(context, case, kwargs):
    path = case.operation.path
    parameters = case.path_parameters
    if isinstance(parameters, dict):
        if parameters.get("id") == DESKTOP and (case.method.upper(), path) in FOR_THE_VICTIM:
            parameters["id"] = VICTIM
        if path.startswith("/v1/admin/keys/") and parameters.get("id") in PROTECTED:
            parameters["id"] = "key-protected"
    if isinstance(case.body, dict):
        # A desktop that boots takes the processors for half a minute, and answers nothing else meanwhile.
        if path == "/v1/desktops" and case.method.upper() == "POST" and case.body.get("start", True) is True:
            case.body["start"] = False
        leave_out_null(case.body)
        if not path.endswith("/lease"):  # nobody waits for its end
            shorten(case.body)
    if path == "/v1/events":  # without a duration it has no end
        case.query = {"durationMs": LONGEST} | (case.query if isinstance(case.query, dict) else {})
    if isinstance(case.query, dict):
        for name in WAITS & set(case.query):
            text = str(case.query[name])
            if text.isdigit() and int(text) > LONGEST:
                case.query[name] = LONGEST


# Refusals that a schema has no words for: about what there is, and who asks.
SEMANTIC = [re.compile(pattern) for pattern in (
    r"^owner: only the operator",  # names another user
    r"^owner: there is no user",
    r": contradicts ",
    r"^(screenshot: )?quality is for jpeg only",
    r"^apiKey: \w+ needs one",  # and other providers do not
    r"^default: make another provider the default instead",
    r"^after is not the id of a desktop",
    r"^model: expected bureau/",  # and a desktop
    r"^model: say which model",
    r"^content: a part of type",  # other clients' parts are allowed, and some not taken
    r"^agent\.kind: a command or a preset is of the kind command",
    r"^apiKey has characters that no key has",
    r"^baseUrl: ",  # an address, and one that may be reached
    r"^fallbackProvider: there is no provider",
    r"^(screenshot: )?give either a scale or",
    r"has a NUL character",
    r"^\S+: number \S+ does not fit",  # into 64 bits
    r"^approval\.patterns\[\d+\]: expected",
    r"give either ",  # one of two ways to say it
    r"go together: give both or neither",
    r"^display: expected a width and a height",
    r"^env: .* cannot be a variable",
    r"^image: there is no image",
    r"^(model|fallbackModel) has characters that no model's name has",
    r"^(screenshot: )?region: (invalid value|expected)",
    r"^direction: expected a direction, or deltaX or deltaY",
    r"^expected startX, startY, endX and endY, or a path",
    r"^until is not after since",
    r"^agent: the kind command needs either",
    r"^email: expected an e-mail address",
    r"^path: expected two points or more",
    r"^name has control characters",
    r"^name is empty",  # of a provider, which is named after its kind when it is made
    r"^tier \".*\" is unknown",
    # What only a desktop that runs can tell: its display, its keys, its files and users.
    r"outside the display",
    r"does not lie within the display",
    r"is not possible: this desktop's display",
    r"^a display of \d+x\d+ is too large",  # sides that are allowed, together
    r"a key is empty",
    r"key combination of \d+ bytes",
    r"key .* (has more than|lacks a key)",
    r"there is no key (called|to press)",
    r"the keyboard layout lacks",
    r"more than \d+ keys to press",
    r"modifiers: ",
    r"text has at position",
    r"control character U\+",
    r"is for the action (click|press)",
    r"are for the action press",
    r"the command is empty",
    r"the working folder ",
    r"there is no user .* in the desktop",
    r"may not start a command in",
    r"there is no action",
    r"^action \d+ has none of type, action and name",
    r"an action is exactly one of",
)]


@schemathesis.check
def refusals_are_known(ctx, response, case):
    """A 400 to a request that the document allows is one of those that it cannot tell."""
    if response.status_code != 400 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    detail = response.json().get("detail", "")
    if not any(pattern.search(detail) for pattern in SEMANTIC):
        raise AssertionError(f"a request that is as the document says was refused: {detail}")
