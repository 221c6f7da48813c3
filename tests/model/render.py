"""Writes a program as a script that needs nothing but Lissom, for whoever has to look into a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.execute import run_on_model

if TYPE_CHECKING:
    from model.program import Call, Program

_HEAD = '''\
"""{note}"""

import stackless

log = []


def show(value):
    return names.get(id(value), "bomb" if isinstance(value, stackless.bomb) else repr(value))


def note(event):
    """Log an event with the runcount, the channels, and the letters of what each tasklet is."""
    words = ("alive", "blocked", "scheduled", "paused", "is_current")
    state = [f"{{show(channel)}}:{{channel.balance}}" for channel in c]
    for tasklet in [stackless.getmain(), *t]:
        letters = "".join(word[0] for word in words if getattr(tasklet, word))
        value = "" if tasklet.tempval is None else "=" + show(tasklet.tempval)
        state.append(f"{{show(tasklet)}}:{{letters or '-'}}{{value}}")
    log.append(f"{{event}} | {{stackless.getruncount()}} {{' '.join(state)}}")


def do(text, catch=BaseException, trapped=False):
    """Evaluate a call and log what comes of it; what is not caught ends the tasklet."""
    me = stackless.getcurrent()
    stackless.switch_trap(int(trapped))
    try:
        line = f"{{show(me)}}: {{text}} -> {{show(eval(text))}}"
    except BaseException as error:
        line = f"{{show(me)}}: {{text}} raised {{type(error).__name__}}: {{error}}"
        if not me.is_main and not isinstance(error, catch):
            raise
    finally:
        stackless.switch_trap(-int(trapped))
        note(line)


def fail(text):
    raise ValueError(text)


def watch_switch(prev, next):
    note(f"switch {{show(prev)}} to {{show(next)}}, current {{show(stackless.getcurrent())}}")


def watch_channel(channel, tasklet, sending, will_block):
    note(f"channel {{show(channel)}} {{show(tasklet)}} sending={{sending}} will_block={{will_block}}")


def watch_switch_fail(prev, next):
    watch_switch(prev, next)
    raise LookupError(f"{{show(prev)}} to {{show(next)}}")


def handle(kind, error, tb):
    note(f"handler in {{show(stackless.getcurrent())}}: {{kind.__name__}}: {{error}}")


def handle_fail(kind, error, tb):
    handle(kind, error, tb)
    raise LookupError(f"handler of {{error}}")


def handle_schedule(kind, error, tb):
    handle(kind, error, tb)
    note(f"handler in {{show(stackless.getcurrent())}} goes on with {{show(stackless.schedule('handler'))}}")

'''

_CATCH = {"all": "", "errors": ", Exception", "none": ", ()"}
# What a program uses of the head, and no more, is kept.
_OPTIONAL = ("fail", "watch_switch_fail", "watch_switch", "watch_channel", "handle_fail", "handle_schedule", "handle")


def render(program: Program) -> str:
    """Return the script; at its end stands what it must log, by the model, with the state after each event."""
    parts = [_head(program)]
    for number, body in enumerate(program.bodies):
        parts.append(_function(f"f{number}", body.calls))
    parts.append(_function("main", program.main))
    channels, tasklets = len(program.channels), len(program.bodies)
    parts.append(f"c = [stackless.channel() for _ in range({channels})]\n")
    for number, flags in enumerate(program.channels):
        if flags != (-1, 0):
            parts.append(f"c[{number}].preference, c[{number}].schedule_all = {flags}\n")
    parts.append(f"t = [stackless.tasklet() for _ in range({tasklets})]\n")
    parts.append(f"f = [{', '.join(f'f{number}' for number in range(tasklets))}]\n")
    parts.append("names = {id(stackless.getcurrent()): 'main'}\n")
    parts.append("for letter, things in (('t', t), ('c', c), ('f', f)):\n")
    parts.append("    names |= {id(thing): f'{letter}{number}' for number, thing in enumerate(things)}\n")
    for number, body in enumerate(program.bodies):
        arguments = {"setup": f"f{number}, ()", "paused": f"f{number}, ()", "bound": f"f{number}"}.get(body.start)
        if arguments:
            parts.append(f"t[{number}].bind({arguments}){'.insert()' if body.start == 'setup' else ''}\n")
    parts.append("main()\nprint('\\n'.join(log))\n\n# Expected, with a little more of the state:\n")
    parts += [f"# {line}\n" for line in run_on_model(program)]
    return "".join(parts)


def _head(program: Program) -> str:
    text = _HEAD.format(note=program.note.replace('"""', "'''").replace("\\", "\\\\"))
    used = " ".join(call.text for calls in program.scripts() for call in calls)
    blocks = text.split("\n\n\n")
    return "\n\n\n".join(block for block in blocks if _needed(block, used)).rstrip("\n") + "\n\n\n"


def _needed(block: str, used: str) -> bool:
    name = block.removeprefix("def ").partition("(")[0]
    if name not in _OPTIONAL:
        return True
    return name in used or (name in {"watch_switch", "handle"} and f"{name}_" in used)


def _function(name: str, calls: tuple[Call, ...]) -> str:
    lines = [f"    do({call.text!r}{_CATCH[call.catch]}{', trapped=True' if call.trapped else ''})\n" for call in calls]
    return f"def {name}():\n{''.join(lines) or '    pass' + chr(10)}\n\n"
