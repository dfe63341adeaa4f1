"""The plugin as lightningd and its operator see it: hooks, notifications, RPC methods, status and things to do.

Hooks leave tasks for the worker and answer at once; methods ask the other rooms and put what those say into
words. Never here: a rule about backups that another room could hold.
"""
