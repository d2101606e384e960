"""Settings of the environment that libraries read when they are imported."""

# Arrow's own allocators keep what batches have freed: the same speed with 30 to 40 MB more. numpy would start a thread
# for each core, for linear algebra, and they look for work before they sleep.
SETTINGS = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}
