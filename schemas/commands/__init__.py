"""The frame of a command: its parser and errors, the reference of its configuration, the end of its processes."""
