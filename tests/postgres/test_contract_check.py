"""``dpone ops contract-check`` of a table of PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from tests.postgres.server import Server

from dpone.cli.main import assemble

ODCS = """\
apiVersion: v3.1.0
kind: DataContract
name: shop
id: x
version: 1.0.0
status: active
schema:
  - name: orders
    properties:
      - {name: id, primaryKey: true, logicalType: string, physicalType: uuid, logicalTypeOptions: {format: uuid}}
      - {name: amount, logicalType: number, physicalType: 'numeric(10,2)', logicalTypeOptions: {exclusiveMinimum: 0}}
      - {name: code, logicalType: string, physicalType: varchar(3), required: true}
      - {name: at, logicalType: timestamp, physicalType: timestamp with time zone, logicalTypeOptions: {timezone: true}}
      - {name: doc, logicalType: object, physicalType: jsonb}
slaProperties: [{property: latency, value: 1, unit: d, element: orders.at}]
"""


def test_the_rows_of_a_table_are_checked_by_its_own_types(postgres: Server, schema: str, tmp_path: Path) -> None:
    """The type of the source is seen from the URL; physical types of a document are compared; nothing is written."""
    postgres.run(
        f"CREATE TABLE {schema}.orders (id uuid, amount numeric(10,2), code varchar(5), at timestamptz, doc jsonb)",
        f"INSERT INTO {schema}.orders SELECT gen_random_uuid(), n - 1, CASE n WHEN 3 THEN NULL WHEN 4 THEN 'abcde' "
        f"ELSE 'abc' END, now() - interval '2 days', '{{}}' FROM generate_series(1, 20000) AS n",
    )
    (tmp_path / "odcs.yaml").write_text(ODCS)
    url = postgres.url.replace("postgres://", "postgresql://")
    args = ["--connection", url, "--table", f"{schema}.orders", "--contract", str(tmp_path / "odcs.yaml")]
    done = CliRunner().invoke(assemble(), ["ops", "contract-check", *args, "--format", "json"], standalone_mode=False)
    assert done.exception is None
    data = json.loads(done.stdout)
    found = {rule["rule"]: [rule["violations"], *rule["examples"]] for rule in data["rules"] if not rule["ok"]}
    assert (done.return_value, data["rows"], data["not_checked"]) == (1, 20_000, [])
    assert {name: of[0] for name, of in found.items()} == {
        "not_null.code": 1, "ranges.amount": 1, "lengths.code": 1, "freshness.at": 1,
    }  # fmt: skip
    assert [found[name][1]["row"] for name in ("ranges.amount", "not_null.code", "lengths.code")] == [1, 3, 4]
