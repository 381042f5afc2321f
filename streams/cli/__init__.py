"""The ``weir`` command: each module decodes one command's arguments, calls, and prints."""
