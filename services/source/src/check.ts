import { matchesTable, type SourceConfig } from '@tributary/config';
import { describeError, Fault } from '@tributary/core';
import { type CatalogTable, describeConnection, quoteIdent, quoteTable, readTables, Session } from '@tributary/postgres';
import { breachesOf, offeredBy } from './contract.ts';
import { publicationNames, slotName } from './slot.ts';

/** One thing `tributary check` says: what is wrong (or worth knowing), and the SQL or step that mends it. */
export interface Finding {
  readonly level: 'error' | 'warning';
  readonly about: string;
  readonly problem: string;
  readonly mend: string;
}

interface Facts {
  readonly version: number;
  readonly level: string;
  readonly recovery: boolean;
  readonly superuser: boolean;
  readonly replication: boolean;
  readonly create: boolean;
  readonly slots_max: number;
  readonly slots_used: number;
  readonly senders_max: number;
  readonly senders_used: number;
  readonly slot: string | null;
  readonly keep: string;
  readonly role: string;
  readonly database: string;
}

const FACTS = `
SELECT current_setting('server_version_num')::int AS version, current_setting('wal_level') AS level, pg_is_in_recovery() AS recovery,
       r.rolsuper AS superuser, r.rolreplication AS replication, has_database_privilege(current_database(), 'CREATE') AS create,
       current_setting('max_replication_slots')::int AS slots_max, (SELECT count(*)::int FROM pg_replication_slots) AS slots_used,
       current_setting('max_wal_senders')::int AS senders_max, (SELECT count(*)::int FROM pg_stat_replication) AS senders_used,
       (SELECT coalesce(wal_status, 'reserved') FROM pg_replication_slots WHERE slot_name = $1) AS slot,
       current_setting('max_slot_wal_keep_size') AS keep, current_user::text AS role, current_database()::text AS database
  FROM pg_roles r WHERE r.rolname = current_user`;

/** Looks at a source as capture would, changes nothing, and tells everything that is in the way at once. */
export async function checkSource(config: SourceConfig): Promise<Finding[]> {
  const about = `source ${config.name}`;
  let session: Session;
  try {
    session = await Session.open(config.postgres, { name: 'check' });
  } catch (error) {
    return [
      {
        level: 'error',
        about,
        problem: describeError(error),
        mend: error instanceof Fault ? error.advice : 'Check the address.',
      },
    ];
  }
  try {
    const facts = await session.row<Facts>(FACTS, [slotName(config.name)]);
    const tables = await readTables(session, (name) => matchesTable(config.tables, name), facts.version);
    return [
      ...serverFindings(about, facts),
      ...(await tableFindings(session, config, { about, facts, tables })),
      ...contractFindings(config, tables),
    ];
  } catch (error) {
    return [
      {
        level: 'error',
        about,
        problem: describeError(error),
        mend: `Check that ${describeConnection(config.postgres)} may read the catalog.`,
      },
    ];
  } finally {
    await session.close();
  }
}

function serverFindings(about: string, facts: Facts): Finding[] {
  const found: Finding[] = [];
  const error = (problem: string, mend: string) => found.push({ level: 'error', about, problem, mend });
  if (facts.version < 140_000)
    error(`PostgreSQL ${Math.floor(facts.version / 10_000)} is too old`, 'Use PostgreSQL 14 or newer.');
  if (facts.recovery) error('the server is a standby', 'Connect to the primary.');
  if (facts.level !== 'logical')
    error(`wal_level is "${facts.level}"`, `ALTER SYSTEM SET wal_level = logical; -- then restart PostgreSQL`);
  if (!facts.superuser && !facts.replication)
    error(`role ${facts.role} may not replicate`, `ALTER ROLE ${quoteIdent(facts.role)} REPLICATION;`);
  if (!facts.create) {
    error(
      `role ${facts.role} may not create publications`,
      `GRANT CREATE ON DATABASE ${quoteIdent(facts.database)} TO ${quoteIdent(facts.role)};`,
    );
  }
  if (facts.slot === null && facts.slots_used >= facts.slots_max) {
    error(
      `all ${facts.slots_max} replication slots are in use`,
      `SELECT slot_name, active FROM pg_replication_slots; -- drop unused ones, or ALTER SYSTEM SET max_replication_slots = ${facts.slots_max + 10}; and restart`,
    );
  }
  if (facts.slot === null && facts.senders_used >= facts.senders_max) {
    error(
      `all ${facts.senders_max} WAL senders are in use`,
      `ALTER SYSTEM SET max_wal_senders = ${facts.senders_max + 10}; -- then restart PostgreSQL`,
    );
  }
  if (facts.slot === 'lost')
    error('its slot was invalidated', `SELECT pg_drop_replication_slot('${about.replace('source ', 'tributary_')}');`);
  if (facts.keep === '-1') {
    found.push({
      level: 'warning',
      about,
      problem: 'max_slot_wal_keep_size has no limit: a capture that stays down lets WAL fill the disk',
      mend: `ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();`,
    });
  }
  return found;
}

/** Where tables fall short of the contract: an error where the source would stand still. */
function contractFindings({ name, contract, schemaChanges }: SourceConfig, tables: readonly CatalogTable[]): Finding[] {
  const found = Object.entries(contract?.tables ?? {}).flatMap(([table, promised]) => {
    const one = tables.find((known) => `${known.schema}.${known.table}` === table);
    return breachesOf(table, promised, one ? offeredBy(one) : null);
  });
  return found.map(({ table, problem, bearable }) => ({
    level: schemaChanges === 'halt' || (schemaChanges === 'keep' && !bearable) ? 'error' : 'warning',
    about: `source ${name}, ${table}`,
    problem: `the contract of ${contract?.owner} is broken: ${problem}`,
    mend: `Correct the table, or its contract.`,
  }));
}

async function tableFindings(
  session: Session,
  config: SourceConfig,
  { about, facts, tables }: { about: string; facts: Facts; tables: readonly CatalogTable[] },
): Promise<Finding[]> {
  const found: Finding[] = [];
  if (tables.length === 0) {
    found.push({
      level: 'warning',
      about,
      problem: `no table matches ${config.tables.join(', ')}`,
      mend: 'Correct "tables", or create them: new tables are captured by themselves.',
    });
    return found;
  }
  const rights = await session.rows<{ name: string; readable: boolean; owned: boolean; published: boolean }>(
    `SELECT n.nspname || '.' || c.relname AS name, has_table_privilege(c.oid, 'SELECT') AS readable, pg_has_role(c.relowner, 'USAGE') AS owned,
            EXISTS (SELECT 1 FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = c.oid AND p.pubname = ANY ($2)) AS published
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[])`,
    [tables.map((table) => table.oid), publicationNames(config.name)],
  );
  for (const table of tables) {
    const name = `${table.schema}.${table.table}`;
    const quoted = quoteTable(table.schema, table.table);
    const right = rights.find((one) => one.name === name);
    if (right && !right.readable) {
      found.push({
        level: 'error',
        about: `${about}, ${name}`,
        problem: `role ${facts.role} may not read it`,
        mend: `GRANT SELECT ON ${quoted} TO ${quoteIdent(facts.role)};`,
      });
    }
    if (right && !right.owned && !right.published && !facts.superuser) {
      found.push({
        level: 'error',
        about: `${about}, ${name}`,
        problem: `only its owner may publish it, and role ${facts.role} is not`,
        mend: `GRANT owner_of_${table.table} TO ${quoteIdent(facts.role)}; -- or leave it out: "!${name}"`,
      });
    }
    if (!table.identifiable) {
      found.push({
        level: 'warning',
        about: `${about}, ${name}`,
        problem:
          'no replica identity: updates and deletes are not in the WAL, so the table is captured by inserts and read again when it changed',
        mend: `ALTER TABLE ${quoted} ADD PRIMARY KEY (…); -- or: ALTER TABLE ${quoted} REPLICA IDENTITY FULL;`,
      });
    }
  }
  return found;
}
