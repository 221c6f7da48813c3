"""Timers: later, again and again, and until a time limit. Each is a function in a tasklet that sleeps."""

import lissom


def later(seconds, function, *args):
    """Call the function once; return the tasklet, whose `kill` calls it off."""

    def wait():
        lissom.sleep(seconds)
        return function(*args)

    return lissom.spawn(wait)


def every(seconds, function, *args):
    """Call the function again and again until the tasklet is killed."""

    def repeat():
        while True:
            lissom.sleep(seconds)
            function(*args)

    return lissom.spawn(repeat)


def countdown(name, seconds, steps):
    """Print as time runs out, whatever else happens in the meantime."""
    for step in range(steps, 0, -1):
        print(f"{name}: {step}")
        lissom.sleep(seconds / steps)
    print(f"{name}: over")


def main():
    later(0.35, print, "later")
    called_off = later(0.05, print, "never seen")
    called_off.kill()

    ticks = []
    ticker = every(0.01, ticks.append, "tick")

    try:
        with lissom.timeout(0.25):
            countdown("limited", 1.0, 10)
    except TimeoutError as error:
        print(error)

    ticker.kill()
    print("ticked" if len(ticks) > 1 else "hardly ticked")
    lissom.join(lissom.spawn(countdown, "free", 0.2, 2))
    lissom.run()


if __name__ == "__main__":
    main()
