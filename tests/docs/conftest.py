"""The PostgreSQL of tests/postgres, for pages that need one."""

from tests.postgres.conftest import postgres as postgres
