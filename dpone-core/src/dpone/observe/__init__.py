"""How the events of a run are shown: a progress line, one line per event, or JSON lines (``progress``). What reports of
finished runs give as metrics: the table (``metrics``), how they are written (``formats``), the artifacts (``export``).
Observers, each a plugin of core: messages to webhooks (``notify``), OpenTelemetry (``otel`` with ``trace`` and
``telemetry``), OpenLineage (``openlineage`` with ``lineage``).
Pages of one HTML file each: the report of a run, and what is certified (``page``, ``report_page``,
``certification_page``).

Reads events, reports and the run log only: nothing here changes a run or connects to a source or a sink.
"""
