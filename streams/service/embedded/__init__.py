"""The service without a broker: the tasks run in this process, on a log in a directory."""
