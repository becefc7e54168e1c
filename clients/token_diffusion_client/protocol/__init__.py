"""What is said between a client and a server, in which order, and how it is read: without a socket, a thread or a clock.

Each conversation is a generator of effects (`effects.py`): it says what is to be done next and is told what came of it.
`drivers.py` does these things, blocking or awaiting; so there is one code for both clients.
"""
