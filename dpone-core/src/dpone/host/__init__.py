"""Services of the machine: files that survive a power cut, processes, threads that read ahead, and the remaining time
after a signal.

It does not know pipelines, sources or sinks.
"""
