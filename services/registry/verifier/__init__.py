"""The child process that loads an unknown model and tries it, with limits on memory, time and the network.

It gets the model on stdin, so that nothing of it touches a disk, and answers one JSON line on stdout.
"""
