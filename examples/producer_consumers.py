"""One producer, several consumers, and a bounded queue between them: the program that every thread tutorial has.

It uses nothing but the standard library and knows nothing of Lissom. Run it both ways:

    python examples/producer_consumers.py
    python -m lissom examples/producer_consumers.py
"""

import queue
import sys
import threading
import time

END = None


def produce(jobs, count, consumers):
    """Put jobs into the queue; putting waits while it is full."""
    for number in range(count):
        jobs.put(number)
    for _ in range(consumers):
        jobs.put(END)


def consume(jobs, results):
    """Work on jobs until the end comes."""
    while (number := jobs.get()) is not END:
        time.sleep(0.001)  # the work
        results.put((number, number * number))


def main(count=200, consumers=20):
    jobs, results = queue.Queue(maxsize=10), queue.SimpleQueue()
    threads = [threading.Thread(target=produce, args=[jobs, count, consumers])]
    threads += [threading.Thread(target=consume, args=[jobs, results]) for _ in range(consumers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    squares = dict(results.get() for _ in range(count))
    print(f"{len(squares)} jobs, sum of squares {sum(squares.values())}")
    print(f"{consumers} consumers took {seconds:.3f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
