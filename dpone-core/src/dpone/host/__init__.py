"""What the machine gives: files that outlive a power cut, processes, threads that read ahead, and how long may still be
waited after a signal.

Nothing of pipelines, sources or sinks.
"""
