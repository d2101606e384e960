"""``dpone plugins`` and ``dpone pipeline-schema``."""

from __future__ import annotations

import click

from dpone.cli.output import emit, format_option, table


@click.command()
@click.option("--load", is_flag=True, help="Import each connector and check it against the contract.")
@format_option
def plugins(load: bool, format_: str) -> int:
    """List plugins; for a broken one, show the cause."""
    from dpone.plugins import discover, troubles

    found = discover()
    rows = [one.to_json() for one in found.found]
    if load:
        for row, one in zip(rows, found.found, strict=True):
            if causes := troubles(found, one):
                row["state"], row["cause"] = "broken", "; ".join(causes)
    head = ["name", "state", "distribution", "version", "roles", "cause"]
    lines = [[r["name"], r["state"], r["distribution"], r["version"], _roles(r["roles"]), r["cause"]] for r in rows]
    emit(format_, rows, lambda: table([head, *lines]))
    return 1 if any(r["state"] == "broken" for r in rows) else 0


def _roles(roles: dict[str, list[str]]) -> str:
    return " ".join(f"{role}:{','.join(names)}" for role, names in roles.items())


@click.command("pipeline-schema")
def pipeline_schema() -> None:
    """Print the JSON Schema of a pipeline file.

    For editors. It includes the options of the installed connectors.
    """
    import json

    from dpone.config.json_schema import pipeline_schema as schema
    from dpone.plugins import discover

    click.echo(json.dumps(schema(discover()), indent=2))


COMMANDS = (plugins, pipeline_schema)
