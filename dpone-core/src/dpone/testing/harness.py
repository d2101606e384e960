"""Harness: how the kit reaches the system behind a connector without the connector."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import pyarrow as pa
from attrs import evolve, field, frozen

from dpone.capability import Role, Support
from dpone.errors import ConfigError, PluginError
from dpone.model.secret import Secret
from dpone.plugins import Plugins, discover, resolve, without
from dpone.testing.rows import sample
from dpone.testing.unreachable import offline

if TYPE_CHECKING:
    from dpone.certify.evidence import Durability
    from dpone.contract import Stream
    from dpone.model.pipeline import (
        Incremental,
        SinkSpec,
        SourceSpec,
        StateSpec,
    )
    from dpone.model.strategy import Strategy

TABLE = "orders"
P = TypeVar("P")


@frozen
class Change:
    """One change of one row of ``table`` by its key ``id``. ``row``: the columns it sets. ``key``: the row's ``id``
    before, for update and delete. A column in ``row`` that the table does not have is added to it first."""

    operation: Literal["insert", "update", "delete", "truncate"]
    row: Mapping[str, Any] = field(factory=dict)
    key: int | None = None
    table: str = TABLE


@frozen
class CannotHold:
    """Values, or names of columns, that a system cannot hold: it refuses them, or gives back others.

    of     the type of the values, or ``name``
    one    one of them. The kit gives it to ``seed``, alone: where the system takes it and ``there`` (or ``rows``) does
           not show it changed, the claim is an error
    why    as the system's documentation says
    every  which others are meant, too; each that a case would use is tried the same way. None: ``one`` alone
    """

    of: pa.DataType | Literal["name"]
    one: Any
    why: str
    every: Callable[[Any], bool] | None = None

    def covers(self, of: pa.DataType | Literal["name"], value: Any) -> bool:
        if value is None or str(of) != str(self.of):
            return False
        return repr(value) == repr(self.one) if self.every is None else self.every(value)


class Harness:
    """One throw-away place in one system, new for every case: a folder, a schema, a database.

    Rows go in and come back through an independent client (the driver itself, another tool), never through the
    connector under test. Write the members that the roles of the connector need:

    ==========  =============================================
    source      ``source`` ``seed`` ``disturb`` (``rewrite``, ``query``, ``there``, ``sample``, ``late``; a log:
                ``expire``)
    sink        ``sink`` ``rows``; over ``dpone.sql`` also ``seed`` and ``disturb``, which then write the target; else,
                with a journal, ``damage``
    state       ``state`` ``away`` ``damage``
    cdc         ``change_stream`` ``change``
    all         (``stuck``, ``unreachable``; a server: ``variable``, ``stand_in``)
    ==========  =============================================

    ``SqlHarness``, ``LogHarness`` and ``StoreHarness`` make most of them of a few calls of the client. A plugin names
    its Harness in ``Connector.harness``; the contracts then make one for each case, with an empty folder, and close it
    afterwards.

    connector  name of the connector, as ``type:`` has it
    product    of the server or library, as it calls itself
    version    as the server itself answers
    live       False for a stand-in: what it proves is shown as simulated
    folder     an empty folder for the kit's own files (state, source files, spools)
    url        of the place of this case, as ``connection:`` has it in a pipeline; None: there is no connection
    key        the column of ``sample`` that tells its rows apart and grows; ``group``: one whose values come again
    quirks     case -> why this system cannot have it; shown with the evidence. Such a case is not run; a name that no
               case has is an error
    cannot_hold  values and names that this system cannot hold; the cases leave out these alone. Needs ``seed``
    implementations  role -> ``module:Class`` instead of what the plugin names
    variable   the environment variable that names the server, which ``__init__`` reads (with ``server``); None: there
               is no server to name
    """

    connector: str
    product: str
    version: str
    live: bool
    folder: Path
    url: str | None = None
    key: str = "id"
    group: str = "day"
    quirks: Mapping[str, str] = {}
    cannot_hold: Sequence[CannotHold] = ()
    implementations: Mapping[str, str] = {}
    variable: str | None = None

    def __init__(self, folder: Path) -> None:
        """``folder`` is empty, or not there yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def durability(self) -> Durability | None:
        """The settings by which this system keeps what it has confirmed, as it answers them itself; shown with the
        evidence. None: they are not known, and no gate of throughput or soak counts."""
        return None

    def close(self) -> None:
        """Release everything created outside of ``folder``."""

    @classmethod
    def stand_in(cls, folder: Path) -> AbstractContextManager[str] | None:
        """A server that the extra ``testing`` brings, which runs while the block does. Yields its address, as
        ``variable`` would name it; its files go into ``folder``. None: there is none, or it is not installed."""
        return None

    def unreachable(self, role: Role) -> AbstractContextManager[None]:
        """While the block runs, every attempt of this connector to connect fails at once; afterwards it works as
        before. By default the process cannot open a file or a socket. Override it if the driver cannot handle that."""
        return offline()

    def stuck(self, role: Role, seconds: float) -> AbstractContextManager[Any] | None:
        """While the block runs, the connector of this role waits: another client holds locks that it needs, or its
        server takes the connection and says nothing. Yields a spec (of the table ``orders``) by which the connector
        waits for ``seconds``, or for less where its limit is fixed. A source is asked to read the table, a sink to
        load it, a state to save ``state.KEY``, a change reader for a window. None: it waits for nothing."""
        return None

    # ---- source

    def source(
        self, table: str = TABLE, *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        """A source that reads ``table``, or the result of ``query``."""
        raise self._lacks("source")

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        """Add rows to a table of the source, durably; make the table if there is none. ``rows`` may be empty."""
        raise self._lacks("seed")

    def there(self, table: str = TABLE) -> pa.Table | None:
        """All rows of the source's table through the independent client; None: just what was seeded."""
        return None

    def disturb(self, table: str = TABLE) -> None:
        """Change an existing row in place."""
        raise self._lacks("disturb")

    def rewrite(self, rows: pa.Table, table: str = TABLE) -> None:
        """Make these all the rows of a table that was seeded, durably: the others change or go. Only ``dpone ops
        certification-run`` asks for it, for strategies that meet changed or deleted rows."""
        raise self._lacks("rewrite")

    def expire(self, table: str = TABLE) -> bool:
        """Drop all rows that the source has now, as the retention of a log does: a reader finds that they were there.
        False: the source is not a log."""
        return False

    def late(self, rows: pa.Table, table: str = TABLE) -> AbstractContextManager[None]:
        """Add rows in a transaction that is open while the block runs, and is committed at its end. Wanted by
        ``late_commits`` alone."""
        raise self._lacks("late")

    def query(self, table: str = TABLE) -> str:
        """A query that gives every row and column of the table."""
        raise self._lacks("query")

    def sample(self, first: int, last: int) -> pa.Table:
        """Rows number ``first`` to ``last``, all different; columns ``id`` (int64), ``day``, ``name`` and ``score``.
        A source whose columns are fixed gives its own, and names ``key`` and ``group``."""
        return sample(first, last)

    # ---- sink

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        """A sink into ``table``. ``options``: of ``SinkOptions`` (schema_evolution, lineage, adopt_existing)."""
        raise self._lacks("sink")

    def rows(self, table: str = TABLE) -> pa.Table | None:
        """All rows of the target with dpone's own columns, by the independent client; None if there is no table.
        Types may be those of the client: the kit casts texts and numbers to what it expects."""
        raise self._lacks("rows")

    def empty(self, table: str = TABLE) -> bool:
        """Delete every row of the target, by the independent client. False: it cannot."""
        return False

    def refer(self, table: str = TABLE) -> bool:
        """Create a table ``referring`` with one row that refers to ``id`` 1 of the target by a foreign key with ON
        DELETE CASCADE (or the equivalent of the system). False: it cannot."""
        return False

    def native(self, rows: pa.Table) -> tuple[Stream, pa.Table]:
        """A stream of these rows in the system's own byte format, and the rows as it holds them."""
        raise self._lacks("native")

    # ---- what was kept, and cannot be read any more

    def damage(self, role: Role, text: str, table: str = TABLE) -> None:
        """Write ``text`` over what is kept, by the independent client. ``state``: over every value that there is now.
        ``sink``: over the journal of the target; not used for a sink over ``dpone.sql``."""
        raise self._lacks("damage")

    # ---- state

    def state(self) -> StateSpec:
        raise self._lacks("state")

    def away(self) -> AbstractContextManager[None]:
        """While the block runs, every call of the state backend fails at once; afterwards its data is as before."""
        raise self._lacks("away")

    # ---- change streams

    def change_stream(self) -> SourceSpec:
        """What the change reader is made with; its tables are ``orders`` (key ``id``) and ``lines`` (key ``id``)."""
        raise self._lacks("change_stream")

    def change(self, changes: Sequence[Change]) -> None:
        """One committed transaction in the source."""
        raise self._lacks("change")

    def lose(self) -> None:
        """Make the log forget what has not been read yet, as retention would."""
        raise self._lacks("lose")

    # ---- made of the above

    @property
    def connection(self) -> Secret | None:
        return None if self.url is None else Secret(self.url)

    def _lacks(self, member: str) -> NotImplementedError:
        todo = "write it, or do not declare what the case examines"
        return NotImplementedError(f"{type(self).__name__} has no {member}: {todo}")

    @property
    def plugins(self) -> Plugins:
        """The installed plugins, with ``implementations`` in place."""
        return replaced(discover(), self.connector, self.implementations)

    def make(self, role: Role, spec: Any) -> Any:
        """The connector under test; nothing is connected yet."""
        return self.plugins.load(role, self.connector)(spec)

    def offered(self, protocol: Callable[..., P], made: object) -> P | None:
        """``made`` as one of ``contract.OPTIONAL``, if the plugin declares it."""
        return self.plugins.offered(protocol, made, self.connector)

    def require(self, protocol: Callable[..., P], made: object) -> P:
        """``made`` as one of ``contract.OPTIONAL``; asserts that it has all members, since cases run whatever the
        plugin declares."""
        missing = without(cast(type, protocol), type(made))
        assert not missing, f"{type(made).__name__} has no {', '.join(missing)}"
        return cast(P, made)

    def options(self, role: Role, **given: Any) -> Any:
        """Options of the connector, of the class that its plugin names."""
        return self.plugins.options(role, self.connector)(**given)

    def declared(self, role: Role, capability: str) -> Support:
        capabilities = self.plugins.get(role, self.connector).capabilities
        return capabilities.get(capability, Support.NOT_IMPLEMENTED)


@contextmanager
def opened(role: Role, connector: str, folder: Path) -> Iterator[Harness]:
    """The Harness that the plugin of a connector names for a role, closed after the block."""
    if not connector:
        raise PluginError("make a harness", "the class names no connector", 'write connector = "..." in it')
    reference = discover().get(role, connector).harness
    if reference is None:
        todo = "name it in the plugin: Connector(..., harness='module:Class')"
        raise PluginError(f"find the harness of {role} {connector}", "its plugin names none", todo)
    with closing(resolve(reference)(folder)) as harness:
        yield harness


def replaced(plugins: Plugins, connector: str, implementations: Mapping[str, str]) -> Plugins:
    """Other classes for a connector, by role."""
    connectors = dict(plugins.connectors)
    for role, implementation in implementations.items():
        key = (cast(Role, role), connector)
        connectors[key] = evolve(connectors[key], implementation=implementation)
    return evolve(plugins, connectors=connectors)


def server(variable: str, form: str) -> str:
    """The address of the server to test with: the text of an environment variable. Raises ConfigError if it is not set;
    ``form`` says what to set."""
    if address := os.environ.get(variable):
        return address
    raise ConfigError("find a server for the tests", f"{variable} is not set", f"set {variable} to {form}")


def unused() -> str:
    """A name for the place of one case (a schema, a database, a bucket), which nothing on the server has yet."""
    return f"dpone_kit_{uuid.uuid4().hex[:16]}"


IN_MEMORY = ("tmpfs", "ramfs")


def synced(folder: Path, safe: bool = True, **settings: str) -> Durability:
    """Of a system whose files are in a folder: its settings, and the file system; one in memory keeps nothing."""
    from dpone.certify.evidence import Durability

    system = file_system(folder)
    return Durability(safe and system not in IN_MEMORY, {**settings, "file system": system})


def file_system(folder: Path) -> str:
    """Its type as Linux lists it, ``unknown`` elsewhere."""
    mounts, place = Path("/proc/self/mounts"), folder.resolve()
    if not mounts.exists():
        return "unknown"
    found = {Path(line.split()[1]): line.split()[2] for line in mounts.read_text().splitlines()}
    return next((found[one] for one in (place, *place.parents) if one in found), "unknown")
