"""The vocabulary that every other part of metako speaks.

Plain, frozen values and pure functions on them. Nothing here knows of sockets, disks, clocks,
tasks or loggers, and nothing here imports anything but the standard library.
"""
