"""A pool of connections that is nothing but a channel, whose balance says how many connections are free.

A free connection waits in the channel, carried by a tasklet that sends it; whoever needs one receives it. If none is
free and the pool may still grow, a new one is made. If it may not grow, receiving waits: first come, first served.
"""

import contextlib

import lissom


class Pool:
    """At most `limit` connections, made by `connect` when they are needed."""

    def __init__(self, connect, limit):
        self.connect = connect
        self.limit = limit
        self.made = 0
        self.free = lissom.channel()

    @contextlib.contextmanager
    def connection(self):
        """Lend a connection for the time of the block; wait for one if all are in use."""
        if self.free.balance <= 0 and self.made < self.limit:
            self.made += 1
            connection = self.connect(self.made)
        else:
            connection = self.free.receive()
        try:
            yield connection
        finally:
            lissom.spawn(self.free.send, connection)  # waits there until somebody needs it


class Connection:
    """Stands for a connection to a database."""

    def __init__(self, number):
        self.number = number

    def query(self, text):
        lissom.sleep(0.002)  # the database thinks
        return f"{text} by connection {self.number}"


def work(pool, number):
    with pool.connection() as connection:
        return connection.query(f"answer {number}")


def main():
    pool = Pool(Connection, limit=3)
    for worker in [lissom.spawn(work, pool, number) for number in range(12)]:
        print(lissom.join(worker))
    lissom.schedule()
    print(f"{pool.made} connections made, {pool.free.balance} free")


if __name__ == "__main__":
    main()
