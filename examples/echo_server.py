"""An echo server: one tasklet for each connection, plain blocking calls.

python examples/echo_server.py 8007           serve until Ctrl-C; try it with: nc 127.0.0.1 8007
python examples/echo_server.py --clients 100  serve on a free port, to this many clients of its own, and end
"""

import socket
import sys

import lissom


def echo(connection):
    """Send back what comes in until the peer has no more."""
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


def serve(listener):
    """Give each connection a tasklet."""
    while True:
        connection, _ = listener.accept()
        lissom.spawn(echo, connection)


def client(address, number):
    """Say something and return the answer."""
    with socket.create_connection(address) as connection:
        connection.sendall(f"hello from {number}".encode())
        return connection.recv(4096).decode()


def main(arguments):
    lissom.hook()
    if arguments[:1] == ["--clients"]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        server = lissom.spawn(serve, listener)
        clients = [lissom.spawn(client, listener.getsockname(), number) for number in range(int(arguments[1]))]
        answers = [lissom.join(tasklet) for tasklet in clients]
        print(f"{len(answers)} answers, the last one: {answers[-1]}")
        server.kill()
        listener.close()
        return
    with socket.create_server(("127.0.0.1", int(arguments[0]) if arguments else 8007)) as listener:
        print("listening on", listener.getsockname())
        try:
            serve(listener)
        except KeyboardInterrupt:
            print("bye")


if __name__ == "__main__":
    main(sys.argv[1:])
