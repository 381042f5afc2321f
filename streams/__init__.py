"""The shell: settings, logs, stores, hosts and the command line around the stages of ``online``."""
