import { assert, Fault, type Lsn, parseLsn } from '@tributary/core';
import { CATALOG_FINGERPRINT, type Session, sqlState, Visibility } from '@tributary/postgres';
import type { Look, Server, Slot, SlotHealth } from './database.ts';

/** Oldest server whose pgoutput carries logical messages, which heartbeats and barriers are. */
const VERSION_MIN = 140_000;

export const slotName = (source: string) => `tributary_${source}`;
export const publicationNames = (source: string) => [`tributary_${source}`, `tributary_${source}_append`] as const;

/** @throws Fault `source_misconfigured` that says how to mend it */
export async function inspectServer(session: Session): Promise<Server> {
  const server = await session.row<{ system: string; version: number; level: string; recovery: boolean }>(
    `SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system, current_setting('server_version_num')::int AS version,
            current_setting('wal_level') AS level, pg_is_in_recovery() AS recovery`,
  );
  if (server.version < VERSION_MIN) {
    throw new Fault(
      'source_misconfigured',
      `PostgreSQL ${Math.floor(server.version / 10_000)} is too old: 14 or newer is needed`,
    );
  }
  if (server.recovery) throw new Fault('source_misconfigured', 'the server is a standby: connect to the primary');
  if (server.level !== 'logical') {
    throw new Fault(
      'source_misconfigured',
      `wal_level is "${server.level}", "logical" is needed. Run: ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL.`,
    );
  }
  return { systemId: server.system, version: server.version };
}

/** Finds the source's slot, or makes it. */
export async function ensureSlot(session: Session, source: string, version: number): Promise<Slot> {
  const name = slotName(source);
  const [found] = await session.rows<{
    confirmed: string | null;
    status: string | null;
    plugin: string;
    database: string;
    own: string;
  }>(
    `SELECT confirmed_flush_lsn::text AS confirmed, wal_status AS status, plugin, database, current_database() AS own
       FROM pg_replication_slots WHERE slot_name = $1`,
    [name],
  );
  if (!found) return { name, confirmed: await createSlot(session, name, version), created: true };
  if (found.plugin !== 'pgoutput' || found.database !== found.own) {
    throw new Fault(
      'source_misconfigured',
      `a slot named ${name} exists but belongs to database ${found.database} and plugin ${found.plugin}. Name this source differently, or drop that slot.`,
    );
  }
  if (found.status === 'lost' || found.confirmed === null) {
    throw new Fault(
      'slot_lost',
      `slot ${name} was invalidated: PostgreSQL removed WAL it needed. Run: SELECT pg_drop_replication_slot('${name}'); a new slot and a reconciling snapshot follow by themselves.`,
      { slot: name },
    );
  }
  return { name, confirmed: parseLsn(found.confirmed), created: false };
}

async function createSlot(session: Session, name: string, version: number): Promise<Lsn> {
  const failover = version >= 170_000 ? ', failover => true' : '';
  try {
    const { lsn } = await session.row<{ lsn: string }>(
      `SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput'${failover})`,
      [name],
    );
    return parseLsn(lsn);
  } catch (error) {
    const state = sqlState(error);
    if (state === '53400') {
      const { used, max } = await session.row<{ used: number; max: number }>(
        `SELECT (SELECT count(*)::int FROM pg_replication_slots) AS used, current_setting('max_replication_slots')::int AS max`,
      );
      throw new Fault(
        'slot_budget',
        `all ${max} replication slots of the server are in use (${used}). Drop unused ones (SELECT slot_name, active FROM pg_replication_slots), or run: ALTER SYSTEM SET max_replication_slots = ${max + 10}; and restart PostgreSQL.`,
        { used, max },
        { cause: error },
      );
    }
    if (state === '42501') {
      throw new Fault(
        'source_misconfigured',
        'this role may not create replication slots. Run as superuser: ALTER ROLE … REPLICATION;',
        {},
        { cause: error },
      );
    }
    throw error;
  }
}

/** Also on a standby, which is refused later with words of its own. */
export async function slotHealth(session: Session, name: string): Promise<SlotHealth | null> {
  const [health] = await session.rows<SlotHealth>(HEALTH_SQL, [name]);
  return health ?? null;
}

const HEALTH_SQL = `
SELECT slot_name AS name, active, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::float8 AS "retainedBytes",
       wal_status AS "walStatus", safe_wal_size::float8 AS "safeBytes" FROM pg_replication_slots WHERE slot_name = $1`;

const LOOK_SQL = `
SELECT pg_current_snapshot()::text AS snapshot, (SELECT row_to_json(h) FROM (${HEALTH_SQL}) h) AS health, ${CATALOG_FINGERPRINT} AS catalog`;

/** Prepared: planning it would cost the server more than running it. */
export async function look(session: Session, slot: string): Promise<Look> {
  const [row] = await session.preparedRows<{ snapshot: string; health: SlotHealth | null; catalog: string }>('look', LOOK_SQL, [
    slot,
  ]);
  assert(row, 'a look without an answer');
  const { snapshot, health, catalog } = row;
  return { visibility: new Visibility(snapshot), health, catalog };
}
