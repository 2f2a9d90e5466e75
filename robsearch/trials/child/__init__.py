"""A process in which a user's code may take all memory, crash or never end, and the session goes
on.

A server imports torch, starts no thread and touches no GPU; it forks a child for each list of
tasks. To fork the caller instead would be unsafe (threads of Ray, torch and CUDA), and a new
process for each list would import torch anew, which takes seconds. Tasks go over as Ray hands them
to its workers: classes of a script or a notebook by value, others by their module. The child has
the caller's folder, environment and import path.
"""
