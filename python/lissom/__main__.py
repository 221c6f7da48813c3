"""``python -m lissom``: runs a program as ``python`` would, with its threads as tasklets; see `lissom._cli`."""

from lissom._cli import main

if __name__ == "__main__":  # tools that import every module must not start a program
    main()
