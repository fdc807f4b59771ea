import { type Config, type OdsSinkConfig, sourcesOf, targetSchema, wantsTable } from '@tributary/config';
import { describeError, Fault } from '@tributary/core';
import { quoteIdent, quoteTable, readTables, Session } from '@tributary/postgres';
import { asReplica } from './constraints.ts';

interface OdsFinding {
  readonly level: 'error' | 'warning';
  readonly about: string;
  readonly problem: string;
  readonly mend: string;
}

/** Looks at a target as the sink would: may it create schemas, and is some table in the way? */
export async function checkOds(sink: OdsSinkConfig, config: Config): Promise<OdsFinding[]> {
  const about = `sink ${sink.name}`;
  let target: Session;
  try {
    target = await Session.open(sink.postgres, { name: 'check' });
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
    const found: OdsFinding[] = [];
    const rights = await target.row<{ create: boolean; role: string; database: string }>(
      `SELECT has_database_privilege(current_database(), 'CREATE') AS create, current_user::text AS role, current_database()::text AS database`,
    );
    const { prepared } = await target.row<{ prepared: boolean }>(`SELECT to_regnamespace('tributary') IS NOT NULL AS prepared`);
    if (!rights.create && sink.existing === 'adopt' && !prepared) {
      found.push({
        level: 'error',
        about,
        problem: `role ${rights.role} has no schema for what it notes`,
        mend: `CREATE SCHEMA tributary AUTHORIZATION ${quoteIdent(rights.role)};`,
      });
    }
    if (!rights.create && sink.existing === 'refuse') {
      found.push({
        level: 'error',
        about,
        problem: `role ${rights.role} may not create schemas`,
        mend: `GRANT CREATE ON DATABASE ${quoteIdent(rights.database)} TO ${quoteIdent(rights.role)};`,
      });
    }
    if (sink.foreignKeys === 'replica') {
      const refused = await asReplica(target, sink.name).then(
        () => null,
        (error: unknown) => describeError(error),
      );
      if (refused) found.push({ level: 'error', about, problem: refused, mend: 'Grant it, or leave "foreignKeys" out.' });
    }
    const ours = await ownedTables(target, sink.name);
    for (const source of sourcesOf(sink, config)) found.push(...(await conflicts({ sink, config, source, target, ours })));
    return found;
  } finally {
    await target.close();
  }
}

async function ownedTables(target: Session, sink: string): Promise<Set<string>> {
  const { there } = await target.row<{ there: boolean }>(`SELECT to_regclass('tributary.tables') IS NOT NULL AS there`);
  if (!there) return new Set();
  const rows = await target.rows<{ target: string; merged: string | null }>(
    `SELECT target, to_jsonb(t) ->> 'merged' AS merged FROM tributary.tables t WHERE sink = $1`,
    [sink],
  );
  return new Set(rows.flatMap((row) => (row.merged === null ? [row.target] : [row.target, row.merged])));
}

async function conflicts(place: {
  sink: OdsSinkConfig;
  config: Config;
  source: string;
  target: Session;
  ours: ReadonlySet<string>;
}): Promise<OdsFinding[]> {
  const { sink, config, source, target, ours } = place;
  const connection = config.sources.find((one) => one.name === source)?.postgres;
  if (!connection) return [];
  let session: Session;
  try {
    session = await Session.open(connection, { name: 'check' });
  } catch {
    // Told by the check of that source.
    return [];
  }
  try {
    const { version } = await session.row<{ version: number }>(`SELECT current_setting('server_version_num')::int AS version`);
    const found: OdsFinding[] = [];
    for (const table of await readTables(session, (name) => wantsTable(sink, source, name), version)) {
      const { merge } = sink;
      const own = {
        name: quoteTable(targetSchema(source, table.schema, sink.schema), table.table),
        key: 'the sink another "schema"',
      };
      const merged = merge && {
        name: quoteTable(targetSchema(source, table.schema, merge.into), table.table),
        key: '"merge" another "into"',
      };
      for (const { name, key } of merged ? [own, merged] : [own]) {
        const { there } = await target.row<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [name]);
        if (!there || ours.has(name) || sink.existing === 'adopt') continue;
        found.push({
          level: 'error',
          about: `sink ${sink.name}, table ${name}`,
          problem: 'it is already there and Tributary did not make it',
          mend: `ALTER TABLE ${name} RENAME TO …; -- or give ${key}, or "existing: adopt"`,
        });
      }
    }
    return found;
  } finally {
    await session.close();
  }
}
