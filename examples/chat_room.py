"""A chat room: members never meet, they only know the channel of the room; the room knows a channel for each member.

Nothing here locks anything. A tasklet runs until it waits, and values pass from hand to hand.
"""

import lissom


def room(door):
    """Tell everybody else what comes in: (name, channel) of who enters, (name, text), or (name, None) as a farewell."""
    members = {}
    for name, what in door:
        if isinstance(what, lissom.channel):
            text, members[name] = "enters", what
        elif what is None:
            text = "leaves"
            members.pop(name).send_exception(StopIteration)  # ends the loop in listen()
        else:
            text = f"says {what!r}"
        for other, ears in members.items():
            if other != name:
                ears.send(f"{name} {text}")


def listen(name, ears, transcript):
    """Write down what a member hears."""
    for heard in ears:
        transcript.append(f"{name} hears: {heard}")


def member(name, lines, door, transcript):
    """Enter, say some lines and let the others speak in between, and leave."""
    ears = lissom.channel()
    listener = lissom.spawn(listen, name, ears, transcript)
    door.send((name, ears))
    for line in lines:
        lissom.sleep(0.01)
        door.send((name, line))
    lissom.sleep(0.01)
    door.send((name, None))
    lissom.join(listener)


def main():
    door, transcript = lissom.channel(), []
    lissom.spawn(room, door)
    talk = {"Ada": ["Hello?", "Anybody here?"], "Grace": ["Hi, Ada."], "Edsger": ["Goto the other room!"]}
    members = [lissom.spawn(member, name, lines, door, transcript) for name, lines in talk.items()]
    for tasklet in members:
        lissom.join(tasklet)
    door.send_exception(StopIteration)
    print("\n".join(transcript))


if __name__ == "__main__":
    main()
